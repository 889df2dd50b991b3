"""An extraction to look at: the photo, the driver and the aligned skeleton side by side."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from animation.errors import InputError
from animation.media.writing import write_mp4
from DWPose.arrangement import photo_person
from DWPose.drawing import draw
from DWPose.recording import Drawn, Recording

HEIGHT = 512  # pixels of each panel
CAPTION_HEIGHT = 32
DIMMED = 0.5  # what is left of a picture under its skeleton


def write_preview(
    path: Path,
    recording: Recording,
    driver_drawn: Drawn,
    photo: Image.Image | None,
    driver: Iterable[np.ndarray] | None,
    caption: str,
    confidence: float,
) -> None:
    """Write an MP4 of three panels a frame under a caption, whole or not at all.

    Args:
        path: ends with .mp4.
        recording: with what was drawn.
        driver_drawn: the same people where they are in the driver's frames.
        photo: None leaves its panel black, or out where its key points are not known either.
        driver: the frames, (H, W, 3) uint8 RGB; None leaves them black.
        caption: one line.
        confidence: points with larger scores are drawn.
    """
    partial = path.with_name(f".{path.stem}.partial.mp4")
    still = [panel] if (panel := _photo_panel(recording, photo, confidence)) is not None else []
    pictures = itertools.chain(driver or (), itertools.repeat(None))

    def frames() -> Iterator[np.ndarray]:
        """All panels of each frame."""
        progress = tqdm(range(recording.drawn.num_frames), desc="preview", unit="frame")
        for number, picture in zip(progress, pictures, strict=False):
            moving = (
                _panel(driver_drawn, number, picture, confidence),
                _panel(recording.drawn, number, None, confidence),
            )
            yield _captioned(np.concatenate([*still, *moving], axis=1), caption)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(partial, frames(), recording.fps)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _photo_panel(recording: Recording, photo: Image.Image | None, confidence: float) -> np.ndarray | None:
    if recording.photo is None:
        return None
    picture = None if photo is None else np.asarray(photo)
    try:
        person = photo_person(recording, confidence=confidence)
    except InputError:  # nobody in it, which matters only to an alignment
        return None if picture is None else _overlay(picture, None, _width(recording.photo_size))
    drawn = Drawn(np.zeros(1, int), person.keypoints, person.scores, recording.photo_size, 1)
    return _panel(drawn, 0, picture, confidence)


def _panel(drawn: Drawn, number: int, picture: np.ndarray | None, confidence: float) -> np.ndarray:
    """A frame's people over its picture, or over black: (512, width, 3)."""
    people = drawn.frames == number
    width = _width(drawn.size)
    return _overlay(picture, draw(drawn.keypoints[people], drawn.scores[people], width, HEIGHT, confidence), width)


def _overlay(picture: np.ndarray | None, skeleton: np.ndarray | None, width: int) -> np.ndarray:
    if picture is None:
        return skeleton
    picture = cv2.resize(picture, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    return picture if skeleton is None else cv2.add((picture * DIMMED).astype(np.uint8), skeleton)


def _width(size: tuple[int, int]) -> int:
    """Of a panel, even as H.264 wants it."""
    return max(2, round(HEIGHT * size[0] / size[1] / 2) * 2)


def _captioned(panels: np.ndarray, caption: str) -> np.ndarray:
    strip = np.zeros((CAPTION_HEIGHT, panels.shape[1], 3), np.uint8)
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 1, 1)
    scale = min(0.6, (panels.shape[1] - 16) / width)
    cv2.putText(strip, caption, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([panels, strip])
