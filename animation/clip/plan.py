"""What a clip is going to take, before it starts: in words, in memory and in time."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from animation.clip.driver import IN_WORDS
from animation.clip.settings import ClipInputs, ClipSettings
from animation.clip.skeletons import looped
from animation.parallel import rounds
from animation.windows import windows_of_steps

if TYPE_CHECKING:
    from animation.planning.planner import Plan


def num_frames(settings: ClipSettings, inputs: ClipInputs) -> int:
    """How many frames the model makes, the photo's own with `--anchor photo` included; of a video about so many."""
    count = len(looped(inputs.driver.estimated_length, inputs.driver.fps, settings.loop, settings.max_seconds))
    return count + (settings.anchor == "photo")


def describe(settings: ClipSettings, inputs: ClipInputs, processes: int = 1) -> str:
    """The plan of a clip of resolved settings, in lines, on so many processes."""
    driver, framing = inputs.driver, inputs.framing
    count, steps, overlap = num_frames(settings, inputs), settings.num_inference_steps, settings.frames_overlap
    assert steps is not None and overlap is not None  # resolved
    of_steps = windows_of_steps(settings.windows, count, settings.tile_size, overlap, steps)
    windows, in_all = len(of_steps[0]), sum(map(len, of_steps))
    size = f"{framing.width}×{framing.height}"
    if framing.output_size != (framing.width, framing.height):
        size += f", cut to {framing.output_size[0]}×{framing.output_size[1]}"
    lines = [
        f"photo     {settings.photo}, {inputs.photo.width}×{inputs.photo.height} pixels, {settings.fit} to {size}",
        f"driver    {driver.path}, {IN_WORDS[driver.kind]}: {count} frames at {driver.fps:.4g} a second, "
        f"{count / driver.fps:.2f} s",
        f"sampling  {steps} steps of {windows} windows of {min(settings.tile_size, count)} frames that share "
        f"{overlap}: {'at most ' if settings.guidance_interval else ''}{in_all * (1 + settings.guided)} calls of "
        "the UNet",
        f"decoding  {settings.decode_chunk_size} frames together",
    ]
    if settings.face_optimization:
        lines.append(
            f"faces     drawn towards the photo's at steps {settings.start_refine_step} to "
            f"{min(settings.end_refine_step, steps - 1)}, {settings.num_optimization_iter} times each"
        )
    if processes > 1:
        branches = 1 + settings.guided
        calls, busy = rounds(windows * branches, processes)
        turns, busy_decoding = rounds(-(-count // settings.decode_chunk_size), processes)
        lines.append(
            f"sharing   {processes} processes, rounds: {calls / branches:g} a step ({busy:.0%} at work), {turns} of "
            f"decoding ({busy_decoding:.0%} at work)"
        )
    lines.append(
        f"levers    device {settings.device}, dtype {settings.dtype}, offload {settings.offload}, cfg_batch "
        f"{settings.cfg_batch}, vae_device {settings.vae_device}"
    )
    return "\n".join(lines)


def fit(settings: ClipSettings, inputs: ClipInputs, asked: ClipSettings) -> tuple[ClipSettings, "Plan"]:
    """Settings that fit `--max_vram`, where it is given, and the plan with memory and time of each stage.

    Args:
        settings: resolved.
        inputs: what they read.
        asked: the same before they were resolved: a lever that a flag set there stays as it is.

    Raises:
        InputError: a checkpoint or a device does not do, or nothing fits.
    """
    from animation.planning.planner import LEVERS, plan_run  # it imports torch
    from animation.runtime import choose_device, fast_dtype

    run = settings.inference_settings(inputs.framing, inputs.driver.fps, face_boxes=True)
    run = replace(run, dtype=fast_dtype(run.dtype, choose_device(run.device)))
    defaults = {field.name: field.default for field in fields(asked)}
    fixed = [name for name in LEVERS if getattr(asked, name) != defaults[name]]
    plan = plan_run(run, num_frames(settings, inputs), settings.max_vram, fixed)
    return replace(settings, **plan.changed), plan
