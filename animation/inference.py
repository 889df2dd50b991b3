"""One inference run from checked inputs to written files: load → encode → denoise → decode → write."""

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from animation import runtime
from animation.errors import RunError
from animation.face.detection import find_face_models
from animation.face.embedding import embed_face
from animation.pipeline import AnimationPipeline
from animation.report import RunReport
from animation.sampling import RefineX0
from animation.settings import CONDITIONED_FPS, InferenceSettings, Inputs
from animation.weights import component_files, read_face_channel_order, resolve_svd_folder
from animation.writing import AnimationWriter

logger = logging.getLogger(__name__)


def load_pipeline(settings: InferenceSettings, device: torch.device, report: RunReport) -> AnimationPipeline:
    """Load the checkpoint that the settings name, on the device, with their levers pulled."""
    dtype = runtime.choose_dtype(settings.dtype, device)
    parts = (
        resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision),
        settings.unet_model_name_or_path,
        settings.posenet_model_name_or_path,
        settings.face_encoder_model_name_or_path,
        dtype,
        settings.vae,
    )
    report.add_files(component_files(*parts))
    pipeline = AnimationPipeline.from_checkpoints(*parts)
    runtime.place(pipeline, device, settings.offload, settings.vae_device)
    if settings.attention == "xformers":
        runtime.use_xformers(pipeline, device)
    if settings.compile:
        pipeline.unet.compile()
    pipeline.set_progress_bar_config(desc="denoising", unit="window")
    return pipeline


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
    with _explain_out_of_memory(settings, device):
        with report.stage("face_embedding"):
            channel_order = settings.face_channel_order
            channel_order = channel_order or read_face_channel_order(settings.face_encoder_model_name_or_path) or "rgb"
            embedding = inputs.face_embedding
            if embedding is None:
                embedding = embed_face(
                    inputs.photo,
                    settings.face_models,
                    channel_order,
                    device.type,
                    settings.face,
                    settings.dwpose_models,
                )
        with report.stage("load"):
            pipeline = load_pipeline(settings, device, report)
        size = f"{settings.width}×{settings.height} (width × height)"
        dtype = str(pipeline.unet.dtype).removeprefix("torch.")
        logger.info("%d frames of %s on %s in %s", len(inputs.poses), size, device, dtype)
        refine_x0 = build_refine_x0(pipeline, report) if build_refine_x0 is not None else None
        generator = torch.Generator(device).manual_seed(settings.seed)
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
            latents = pipeline.denoise(
                conditions,
                settings.num_inference_steps,
                settings.guidance_scale,
                settings.min_guidance_scale,
                settings.tile_size,
                settings.frames_overlap,
                None if settings.cfg_batch == "auto" else int(settings.cfg_batch),
                generator,
                refine_x0=refine_x0,
            )
        del conditions
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
def _explain_out_of_memory(settings: InferenceSettings, device: torch.device):
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
