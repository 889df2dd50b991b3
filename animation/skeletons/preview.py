"""An extraction to look at: the photo, the driver and the aligned skeleton side by side."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation.errors import InputError
from animation.media.panels import panel, panel_size, write_panels
from DWPose.arrangement import photo_person
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.recording import Drawn, Recording

DIMMED = 0.5  # what is left of a picture under its skeleton


def write_preview(
    path: Path,
    recording: Recording,
    driver_drawn: Drawn,
    photo: Image.Image | None,
    driver: Iterable[np.ndarray] | None,
    caption: str,
    confidence: float,
    canvas: int | None = None,
) -> None:
    """Write an MP4 of three panels a frame over a caption, atomically.

    Args:
        path: ends with .mp4.
        recording: with what was drawn.
        driver_drawn: the same people where they are in the driver's frames.
        photo: None leaves its panel black, or out where its key points are not known either.
        driver: the frames, (H, W, 3) uint8 RGB; None leaves them black.
        caption: one line.
        confidence: points with larger scores are drawn.
        canvas: the short side of what the skeletons are drawn on, pixels; None: DWPose's own.
    """
    assert recording.drawn is not None
    count = recording.drawn.num_frames
    pictures = itertools.chain(driver or (), itertools.repeat(None))
    moving = zip(pictures, skeleton_panels(driver_drawn, confidence, canvas), strict=False)
    still = {} if recording.photo is None else _photo_panel(recording, photo, confidence, canvas)
    panels = still | {
        "driver": (_overlay(*pair) for pair in tqdm(moving, desc="preview", unit="frame", total=count)),
        "skeleton": skeleton_panels(recording.drawn, confidence, canvas),
    }
    write_panels(path, panels, recording.fps, caption=caption)


def skeleton_panels(drawn: Drawn, confidence: float, canvas: int | None) -> Iterator[np.ndarray]:
    """The skeletons of all frames at their panel's size, (512, width, 3) uint8 RGB each.

    In a smaller panel their strokes are as wide, and so as bright, as in the files; in a larger one, in proportion.

    Args:
        confidence: points with larger scores are drawn.
        canvas: as of the files; None: DWPose's own.
    """
    size = panel_size(*drawn.size)
    side = round((canvas or SHORT_SIDE) * min(1, size[1] / drawn.size[1]))
    for number in range(drawn.num_frames):
        people = drawn.frames == number
        yield draw(drawn.keypoints[people], drawn.scores[people], *size, confidence, side)


def _photo_panel(
    recording: Recording, photo: Image.Image | None, confidence: float, canvas: int | None
) -> dict[str, Image.Image]:
    """The photo with its skeleton, under its name; nothing where there is neither."""
    try:
        person = photo_person(recording, confidence=confidence)
    except InputError:  # nobody in it, which matters only to an alignment
        return {} if photo is None else {"photo": photo}
    drawn = Drawn(np.zeros(1, int), person.keypoints, person.scores, recording.photo_size, 1)
    picture = None if photo is None else np.asarray(photo)
    return {"photo": Image.fromarray(_overlay(picture, next(skeleton_panels(drawn, confidence, canvas))))}


def _overlay(picture: np.ndarray | None, skeleton: np.ndarray) -> np.ndarray:
    """A skeleton in its own colours, (512, width, 3) uint8, over its dimmed picture, if there is one."""
    if picture is None:
        return skeleton
    return np.where(skeleton.any(axis=-1, keepdims=True), skeleton, (panel(picture) * DIMMED).astype(np.uint8))
