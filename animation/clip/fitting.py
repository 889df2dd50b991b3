"""How a clip fits the memory: the run is rehearsed without memory, and levers are pulled until it does."""

from dataclasses import replace

import torch

from animation import runtime
from animation.clip.plan import num_frames
from animation.clip.settings import ClipInputs, ClipSettings
from animation.planning.memory import Job, Rehearsal
from animation.planning.planner import Plan, make_plan, measure_rate
from animation.run import component_paths
from animation.weights.loading import load_arcface, load_components

AS_EVER = {"offload": "none", "cfg_batch": "auto", "tile_size": 16}


def fit(settings: ClipSettings, inputs: ClipInputs, asked: ClipSettings) -> tuple[ClipSettings, Plan]:
    """Settings that fit `--max_vram`, where it is given, and the plan with memory and time of each stage.

    Args:
        settings: resolved.
        inputs: what they read.
        asked: the same before they were resolved: a lever that a flag set there stays as it is.

    Raises:
        InputError: a checkpoint or a device does not do, or nothing fits.
    """
    device = runtime.choose_device(settings.device)
    dtype = runtime.choose_dtype(settings.dtype, device)
    run = settings.inference_settings(inputs.framing, inputs.driver.fps)
    components = load_components(**component_paths(run, dtype), device="meta")
    arcface = load_arcface(settings.find_extractor(), device="meta") if settings.face_optimization else None
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    rehearsal = Rehearsal(components, device.type, arcface, total)
    plan = make_plan(
        rehearsal,
        _job(settings, inputs, device),
        settings.offload,
        settings.max_vram,
        _fixed(asked),
        measure_rate(device, dtype),
    )
    if settings.max_vram is None:
        return settings, plan
    levers = plan.levers()
    return replace(settings, **(levers | {"cfg_batch": str(levers["cfg_batch"])})), plan


def _job(settings: ClipSettings, inputs: ClipInputs, device: torch.device) -> Job:
    refined = 0
    if settings.face_optimization:
        refined = min(settings.end_refine_step, settings.num_inference_steps - 1) - settings.start_refine_step + 1
    guided = max(settings.guidance_scale, settings.min_guidance_scale or 0) > 1
    batch = 2 if settings.cfg_batch == "auto" else int(settings.cfg_batch)
    return Job(
        width=inputs.framing.width,
        height=inputs.framing.height,
        num_frames=num_frames(settings, inputs),
        num_inference_steps=settings.num_inference_steps,
        tile_size=settings.tile_size,
        frames_overlap=settings.frames_overlap,
        guided=guided,
        cfg_batch=batch if guided else 1,
        decode_chunk_size=settings.decode_chunk_size,
        refined_steps=refined,
        num_optimization_iter=settings.num_optimization_iter,
        hjb_crop=settings.hjb_crop,
    )


def _fixed(asked: ClipSettings) -> set[str]:
    """The levers that a flag set."""
    given = {name for name, value in AS_EVER.items() if getattr(asked, name) != value}
    return given | ({"decode_chunk_size"} if asked.decode_chunk_size is not None else set())
