"""How a clip fits the memory."""

from dataclasses import fields, replace

from animation.clip.plan import num_frames
from animation.clip.settings import ClipInputs, ClipSettings
from animation.planning.planner import LEVERS, Plan, plan_run


def fit(settings: ClipSettings, inputs: ClipInputs, asked: ClipSettings) -> tuple[ClipSettings, Plan]:
    """Settings that fit `--max_vram`, where it is given, and the plan with memory and time of each stage.

    Args:
        settings: resolved.
        inputs: what they read.
        asked: the same before they were resolved: a lever that a flag set there stays as it is.

    Raises:
        InputError: a checkpoint or a device does not do, or nothing fits.
    """
    run = settings.inference_settings(inputs.framing, inputs.driver.fps, face_boxes=True)
    defaults = {field.name: field.default for field in fields(asked)}
    fixed = [name for name in LEVERS if getattr(asked, name) != defaults[name]]
    plan = plan_run(run, num_frames(settings, inputs), settings.max_vram, fixed)
    return replace(settings, **plan.changed), plan
