"""One inference run from checked inputs to written files: load → encode → denoise → decode → write."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animation import runtime
from animation.errors import RunError
from animation.face.detection import find_face_models
from animation.face.embedding import embed_face
from animation.pipeline import AnimationPipeline
from animation.report import RunReport
from animation.sampling import RefineX0
from animation.settings import CONDITIONED_FPS, InferenceSettings, Inputs, SamplingSettings
from animation.weights import component_files, read_face_channel_order, resolve_svd_folder
from animation.writing import AnimationWriter

logger = logging.getLogger(__name__)


def component_paths(settings: SamplingSettings, device: torch.device) -> tuple:
    """Arguments of `AnimationPipeline.from_checkpoints` and `load_components`. Raises InputError."""
    return (
        resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision),
        settings.unet_model_name_or_path,
        settings.posenet_model_name_or_path,
        settings.face_encoder_model_name_or_path,
        runtime.choose_dtype(settings.dtype, device),
        settings.vae,
    )


def weights_files(settings: SamplingSettings, device: torch.device) -> list[Path]:
    """The files that `load_pipeline` reads. Raises InputError where one is missing, or the device does not do."""
    return component_files(*component_paths(settings, device))


def load_pipeline(settings: SamplingSettings, device: torch.device, report: RunReport) -> AnimationPipeline:
    """Load the checkpoint that the settings name, on the device, with their levers pulled."""
    parts = component_paths(settings, device)
    report.add_files(component_files(*parts))
    pipeline = AnimationPipeline.from_checkpoints(*parts)
    runtime.place(pipeline, device, settings.offload, settings.vae_device)
    if settings.attention == "xformers":
        runtime.use_xformers(pipeline, device)
    if settings.compile:
        pipeline.unet.compile()
    pipeline.set_progress_bar_config(desc="denoising", unit="window")
    return pipeline


def choose_channel_order(settings: SamplingSettings) -> str:
    """What the face models are handed, `rgb` or `bgr`: as asked for, as the checkpoint says, or as was released."""
    return settings.face_channel_order or read_face_channel_order(settings.face_encoder_model_name_or_path) or "rgb"


def embed_photo(photo: Image.Image, settings: SamplingSettings, channel_order: str, device: torch.device) -> np.ndarray:
    """The embedding of a photo's face, (512,) float32; zeros where there is none."""
    return embed_face(photo, settings.face_models, channel_order, device.type, settings.face, settings.dwpose_models)


def sample(
    pipeline: AnimationPipeline,
    settings: InferenceSettings,
    inputs: Inputs,
    embedding: np.ndarray,
    generator: torch.Generator,
    report: RunReport,
    **options,
) -> torch.Tensor:
    """Encode the inputs and sample a video's latents, (1, F, 4, h, w) float32.

    Args:
        embedding: of the face, 512 numbers.
        generator: of all random numbers.
        options: further arguments of `AnimationPipeline.denoise`.
    """
    with report.stage("encode"):
        conditions = pipeline.encode(
            inputs.photo,
            inputs.poses,
            embedding,
            settings.height,
            settings.width,
            CONDITIONED_FPS,
            settings.motion_bucket_id,
            settings.noise_aug_strength,
            generator,
        )
    with report.stage("denoise"):
        return pipeline.denoise(
            conditions,
            settings.num_inference_steps,
            settings.guidance_scale,
            settings.min_guidance_scale,
            settings.tile_size,
            settings.frames_overlap,
            None if settings.cfg_batch == "auto" else int(settings.cfg_batch),
            generator,
            **options,
        )


def animate(
    settings: InferenceSettings,
    inputs: Inputs,
    build_refine_x0: Callable[[AnimationPipeline, RunReport], RefineX0] | None = None,
) -> None:
    """Run the settings on the inputs and write the results to `settings.output_dir`.

    Args:
        settings: of which everything is recorded in run.json.
        inputs: what `settings.read_inputs()` returned.
        build_refine_x0: makes, of the loaded pipeline, what improves the predicted clean latents at each step; it may
            add facts and files to the report.

    Raises:
        InputError: a checkpoint or a device does not do.
        RunError: memory did not suffice, or NaN appeared.
    """
    device = runtime.choose_device(settings.device)
    report = RunReport(asdict(settings), device)
    writer = AnimationWriter(
        settings.output_dir, len(inputs.poses), settings.fps, png=not settings.no_png, gif=not settings.no_gif
    )
    with explain_out_of_memory(settings, device):
        with report.stage("face_embedding"):
            channel_order = choose_channel_order(settings)
            embedding = inputs.face_embedding
            if embedding is None:
                embedding = embed_photo(inputs.photo, settings, channel_order, device)
        with report.stage("load"):
            pipeline = load_pipeline(settings, device, report)
        size = f"{settings.width}×{settings.height} (width × height)"
        dtype = str(pipeline.unet.dtype).removeprefix("torch.")
        logger.info("%d frames of %s on %s in %s", len(inputs.poses), size, device, dtype)
        refine_x0 = build_refine_x0(pipeline, report) if build_refine_x0 is not None else None
        generator = torch.Generator(device).manual_seed(settings.seed)
        latents = sample(pipeline, settings, inputs, embedding, generator, report, refine_x0=refine_x0)
        progress = tqdm(total=len(inputs.poses), desc="decoding", unit="frame")
        with report.stage("decode_and_write"), writer, progress:
            for frames in pipeline.decode(latents, settings.decode_chunk_size):
                writer.write(frames)
                progress.update(len(frames))
    report.add_files([settings.validation_image, *inputs.poses.paths])
    if settings.face_embedding is not None:
        report.add_files([settings.face_embedding])
    else:
        report.add_files(sorted(find_face_models(settings.face_models).glob("*.onnx")))
    output_dir = Path(settings.output_dir)
    report.write(
        output_dir / "run.json",
        dtype=dtype,
        num_frames=len(inputs.poses),
        face_channel_order=channel_order,
        face_found=bool(embedding.any()),
        cfg_batch=pipeline.denoiser.cfg_batch,
        outputs=writer.outputs,
    )
    logger.info("written to %s: %s and run.json", output_dir, ", ".join(writer.outputs))


@contextmanager
def explain_out_of_memory(settings: InferenceSettings, device: torch.device) -> Iterator[None]:
    """Within the context, memory that does not suffice is a RunError that says what would help."""
    try:
        yield
    except Exception as error:
        if not runtime.is_out_of_memory(error):
            raise
        remedies = runtime.memory_remedies(
            device.type,
            "fp16" if settings.dtype == "auto" and device.type == "cuda" else settings.dtype,
            settings.offload,
            settings.cfg_batch,
            settings.decode_chunk_size,
            settings.vae_device,
            settings.tile_size,
        )
        remedies = [*settings.memory_remedies(), *remedies]
        raise RunError(f"out of memory on {device}; in this order, these would help: {', '.join(remedies)}") from None
