"""One run from checked inputs to frames, and to files: load → encode → denoise → decode → write."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from animation import runtime
from animation.errors import RunError
from animation.face.detection import Face, find_face_models
from animation.face.embedding import find_and_embed
from animation.face.settings import FaceInputs, FaceOptimizationSettings
from animation.face_optimization import build_face_optimizer
from animation.files import locked
from animation.media.writing import AnimationWriter
from animation.networks import ANEW, Networks
from animation.parallel import ALONE, Processes
from animation.pipeline import AnimationPipeline
from animation.quantization import check_quantization, quantize
from animation.report import RunReport
from animation.sampling import Checkpoint
from animation.schedules import EVERYWHERE
from animation.settings import CONDITIONED_FPS, InferenceSettings, Inputs, Person, Weights
from animation.weights.loading import component_files, read_face_channel_order, resolve_svd_folder

logger = logging.getLogger(__name__)


def component_paths(settings: Weights, dtype: torch.dtype) -> dict:
    """Arguments of `AnimationPipeline.from_checkpoints`, `load_components` and `component_files`. Raises InputError."""
    return {
        "svd_folder": resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision),
        "unet_path": settings.unet_model_name_or_path,
        "pose_net_path": settings.posenet_model_name_or_path,
        "face_encoder_path": settings.face_encoder_model_name_or_path,
        "dtype": dtype,
        "preview_vae_folder": settings.vae,
    }


def weights_files(settings: InferenceSettings, device: torch.device) -> list[Path]:
    """The files that `load_pipeline` reads. Raises InputError where one is missing, or the device does not do."""
    check_quantization(settings.quantize, device)
    return component_files(**component_paths(settings, runtime.choose_dtype(settings.dtype, device)))


def load_pipeline(
    settings: InferenceSettings, device: torch.device, report: RunReport, processes: Processes = ALONE
) -> AnimationPipeline:
    """Load the checkpoint that the settings name, on the device, with their levers pulled."""
    if device.type == "cpu":
        runtime.keep_freed_memory()
    check_quantization(settings.quantize, device)
    parts = component_paths(settings, runtime.choose_dtype(settings.dtype, device))
    report.add_files(component_files(**parts))
    pipeline = AnimationPipeline.from_checkpoints(**parts)
    quantize(pipeline.unet, settings.quantize)
    runtime.place(pipeline, device, settings.offload, settings.vae_device)
    if settings.attention == "xformers":
        runtime.use_xformers(pipeline, device)
    if settings.compile:
        runtime.compile_blocks(pipeline.unet)
    pipeline.processes = processes
    pipeline.set_progress_bar_config(desc="denoising", unit="window")
    return pipeline


def choose_channel_order(settings: Weights) -> str:
    """What the face models are handed, `rgb` or `bgr`: as asked for, as the checkpoint says, or as was released."""
    return settings.face_channel_order or read_face_channel_order(settings.face_encoder_model_name_or_path) or "rgb"


def embed_photo(
    person: Person,
    settings: InferenceSettings,
    channel_order: str,
    device: torch.device,
    networks: Networks = ANEW,
) -> tuple[np.ndarray, Face | None]:
    """The embedding of a person's face, (512,) float32, and the face in the photo: what `find_and_embed` gives."""
    return find_and_embed(
        person.photo,
        settings.face_models,
        channel_order,
        device.type,
        settings.face,
        settings.dwpose_models,
        networks,
        person.face_photo,
    )


def render(
    settings: InferenceSettings,
    inputs: Inputs,
    pipeline: AnimationPipeline,
    report: RunReport,
    checkpoint: Callable[[torch.Generator, list | None], Checkpoint] | None = None,
    first_frame: int = 0,
    networks: Networks = ANEW,
) -> Iterator[np.ndarray]:
    """Encode the inputs and denoise at once, then decode chunk by chunk as the result is iterated.

    Args:
        settings: of the run.
        inputs: what `settings.read_inputs()` returned, with the face's embedding; of the kind with faces, these are
            optimised.
        pipeline: loaded by `load_pipeline`.
        report: gets the seconds of each stage.
        checkpoint: makes what keeps the state of the denoising loop, of the generator of all random numbers and of the
            facts that grow while it runs; None: nothing is kept.
        first_frame: decode from this one on, a multiple of `decode_chunk_size`.
        networks: that are open already.

    Yields:
        (n, H, W, 3) uint8 RGB; in the first of several processes alone, but all must iterate.

    Raises:
        RunError: NaN appeared, or another process has ended.
    """
    num_frames = len(inputs.poses)
    size = f"{settings.width}×{settings.height} (width × height)"
    dtype = report.facts["dtype"] = str(pipeline.unet.dtype).removeprefix("torch.")
    logger.info("%d frames of %s on %s in %s", num_frames, size, report.device, dtype)
    generator = torch.Generator(report.device).manual_seed(settings.seed)
    refine_x0 = None
    if isinstance(inputs, FaceInputs) and isinstance(settings, FaceOptimizationSettings):
        refine_x0 = build_face_optimizer(settings, inputs, pipeline, report, networks)
    with report.stage("encode"):
        conditions = pipeline.encode(
            inputs.photo,
            inputs.poses,
            inputs.face_embedding,
            height=settings.height,
            width=settings.width,
            fps=CONDITIONED_FPS,
            motion_bucket_id=settings.motion_bucket_id,
            noise_aug_strength=settings.noise_aug_strength,
            generator=generator,
        )
    with report.stage("denoise"):
        latents = pipeline.denoise(
            conditions,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            min_guidance_scale=settings.min_guidance_scale,
            tile_size=settings.tile_size,
            overlap=settings.frames_overlap,
            cfg_batch=None if settings.cfg_batch == "auto" else int(settings.cfg_batch),
            generator=generator,
            refine_x0=refine_x0,
            checkpoint=checkpoint and checkpoint(generator, getattr(refine_x0, "similarities", None)),
            fresh_noise=settings.noise == "fresh",
            schedule=settings.schedule,
            guidance_interval=settings.guidance_interval or EVERYWHERE,
            windows=settings.windows,
            cache=settings.cache,
        )
    report.facts["cfg_batch"] = pipeline.denoiser.cfg_batch
    report.facts["processes"] = {"count": pipeline.processes.count, "bytes": pipeline.processes.traffic}

    def decoded() -> Iterator[np.ndarray]:
        """Decode with a progress bar."""
        with tqdm(total=num_frames, initial=first_frame, desc="decoding", unit="frame") as progress:
            for frames in pipeline.decode(latents, settings.decode_chunk_size, first_frame):
                yield frames
                progress.update(len(frames))
        pipeline.maybe_free_model_hooks()

    return decoded()


def animate(settings: InferenceSettings, inputs: Inputs, processes: Processes = ALONE) -> None:
    """Run the settings on the inputs and write the results to `settings.output_dir`.

    Args:
        settings: of which everything is recorded in run.json.
        inputs: what `settings.read_inputs()` returned; of the kind with faces, these are optimised.
        processes: that share the work; the first one writes.

    Raises:
        InputError: a checkpoint or a device does not do.
        RunError: memory did not suffice, or NaN appeared.
    """
    device = runtime.join(processes, settings.device)
    report = RunReport(asdict(settings), device, processes.is_first)
    writer = AnimationWriter(
        settings.output_dir, len(inputs.poses), settings.fps, png=not settings.no_png, gif=not settings.no_gif
    )
    folder = locked(Path(settings.output_dir)) if processes.is_first else nullcontext()
    with folder, explain_out_of_memory(settings, device):
        with report.stage("face_embedding"):
            channel_order = choose_channel_order(settings)
            if inputs.face_embedding is None:
                found, _ = processes.first(lambda: embed_photo(inputs, settings, channel_order, device))
                inputs = replace(inputs, face_embedding=found)
        with report.stage("load"):
            pipeline = load_pipeline(settings, device, report, processes)
        chunks = render(settings, inputs, pipeline, report)
        if not processes.is_first:
            for _ in chunks:  # none: its share goes to the first process
                pass
            return
        with report.stage("decode_and_write"), writer:
            for frames in chunks:
                writer.write(frames)
    named = filter(None, (settings.validation_image, settings.face_photo, settings.face_embedding))
    report.add_files([*named, *inputs.poses.paths])
    if settings.face_embedding is None:
        report.add_files(sorted(find_face_models(settings.face_models).glob("*.onnx")))
    output_dir = Path(settings.output_dir)
    report.write(
        output_dir / "run.json",
        num_frames=len(inputs.poses),
        face_channel_order=channel_order,
        face_found=bool(inputs.face_embedding.any()),
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
            settings.quantize,
        )
        remedies = [*settings.memory_remedies(), *remedies]
        raise RunError(f"out of memory on {device}; in this order, these would help: {', '.join(remedies)}") from None
