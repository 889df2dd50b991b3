"""An extraction to look at: the photo, the driver and the aligned skeleton side by side."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation.errors import InputError
from animation.media.panels import panel, panel_size, write_panels
from animation.skeletons.settings import SkeletonInputs, SkeletonSettings
from DWPose.arrangement import photo_person
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.recording import Drawn, Recording

DIMMED = 0.5  # what is left of a picture under its skeleton


def write_preview(
    settings: SkeletonSettings, inputs: SkeletonInputs, recording: Recording, driver_drawn: Drawn, caption: str
) -> None:
    """Write an MP4 of three panels a frame over a caption to `settings.preview`, atomically.

    It shows what was drawn of the recording, and the same people where they are in the driver's frames. Pictures that
    are not there leave their panels black, and the photo's out where its key points are not known either.
    """
    shown = settings.confidence, settings.canvas
    pictures = itertools.chain(inputs.driver or (), itertools.repeat(None))
    moving = zip(pictures, skeleton_panels(driver_drawn, *shown), strict=False)
    frames = tqdm(moving, desc="preview", unit="frame", total=driver_drawn.num_frames)
    still = {} if recording.photo is None else _photo_panel(settings, inputs.photo, recording)
    panels = still | {
        "driver": (_overlay(*pair) for pair in frames),
        "skeleton": skeleton_panels(recording.drawn, *shown),
    }
    write_panels(Path(settings.preview), panels, recording.fps, caption=caption)


def skeleton_panels(drawn: Drawn, confidence: float, canvas: int | None) -> Iterator[np.ndarray]:
    """The skeletons of all frames at their panel's size, (512, width, 3) uint8 RGB each.

    In a smaller panel their strokes are as wide, and so as bright, as in the files; in a larger one, in proportion.

    Args:
        confidence: points with larger scores are drawn.
        canvas: as of the files; None: DWPose's own.
    """
    size = panel_size(*drawn.size)
    side = round((canvas or SHORT_SIDE) * min(1, size[1] / drawn.size[1]))
    return (draw(*drawn.people(frame), *size, confidence, side) for frame in range(drawn.num_frames))


def _photo_panel(settings: SkeletonSettings, photo: Image.Image | None, recording: Recording) -> dict[str, Image.Image]:
    """The photo with its skeleton, under its name; nothing where there is neither."""
    try:
        person = photo_person(recording, settings.person == "all", settings.confidence)
    except InputError:  # nobody in it, which matters only to an alignment
        return {} if photo is None else {"photo": photo}
    drawn = Drawn(np.zeros(len(person), int), person.keypoints, person.scores, recording.photo_size, 1)
    (skeleton,) = skeleton_panels(drawn, settings.confidence, settings.canvas)
    return {"photo": Image.fromarray(_overlay(None if photo is None else np.asarray(photo), skeleton))}


def _overlay(picture: np.ndarray | None, skeleton: np.ndarray) -> np.ndarray:
    """A skeleton in its own colours, (512, width, 3) uint8, over its dimmed picture, if there is one."""
    if picture is None:
        return skeleton
    return np.where(skeleton.any(axis=-1, keepdims=True), skeleton, (panel(picture) * DIMMED).astype(np.uint8))
