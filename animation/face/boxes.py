"""Where the face is in each frame: boxes from masks or from a skeleton's face points."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from DWPose.keypoints import CONFIDENCE, FACE, People
from DWPose.recording import Drawn

MASK_THRESHOLD = 128  # of 255: half way, so that JPEG noise and feathered edges do not matter
SMALLEST_FACE = 8  # pixels a side: below, there is nothing to recognise
FOREHEAD = 0.3  # of the height between brows and chin: what a face detector's box has above the brows
ROUND_POINTS = 0.05  # of the points' extent, to the other sides


class FaceBox(NamedTuple):
    """A face's rows and columns in pixels, bounds included."""

    y_min: int
    y_max: int
    x_min: int
    x_max: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.y_max - self.y_min + 1) * (self.x_max - self.x_min + 1)


def clip_box(edges: Iterable[float], height: int, width: int) -> FaceBox | None:
    """The pixels that a box of edges [x_min, y_min, x_max, y_max) touches within a frame; None for too few."""
    left, top, right, bottom = edges
    y_min, y_max = max(0, int(np.floor(top))), min(height, int(np.ceil(bottom))) - 1
    x_min, x_max = max(0, int(np.floor(left))), min(width, int(np.ceil(right))) - 1
    box = FaceBox(y_min, y_max, x_min, x_max)
    return box if min(y_max - y_min, x_max - x_min) + 1 >= SMALLEST_FACE else None


def box_from_mask(mask: np.ndarray, height: int, width: int) -> FaceBox | None:
    """The box of the largest white region of a mask, (h, w) uint8, scaled to a frame of `height` × `width` pixels.

    Pixels of 128 and more are white. A mask without white has no face, and neither has one that is white all over:
    it stands for a face that was not found, not for a face as large as the frame.
    """
    white = (mask >= MASK_THRESHOLD).astype(np.uint8)
    if white.all() or not white.any():
        return None
    _count, _labels, regions, _centres = cv2.connectedComponentsWithStats(white, connectivity=8)
    left, top, across, down, _area = regions[1 + int(np.argmax(regions[1:, cv2.CC_STAT_AREA]))]
    y, x = height / mask.shape[0], width / mask.shape[1]
    return clip_box((left * x, top * y, (left + across) * x, (top + down) * y), height, width)


def bounds_of_points(points: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
    """The box around a face from its 68 points, as a face detector would draw it.

    Args:
        points: (68, 2), x and y in any unit, in iBUG's order.
        scores: (68,).

    Returns:
        (4,) x_min, y_min, x_max, y_max in the same unit; None where fewer than half of the points are visible.
    """
    visible = scores > CONFIDENCE
    if visible.sum() * 2 < len(points):
        return None
    low, high = points[visible].min(axis=0), points[visible].max(axis=0)
    margin = ROUND_POINTS * (high - low)
    return np.array([low[0] - margin[0], low[1] - FOREHEAD * (high[1] - low[1]), *(high + margin)])


def _faces(
    keypoints: np.ndarray, scores: np.ndarray, scale: np.ndarray, height: int, width: int
) -> Iterator[tuple[int, FaceBox, float]]:
    """Of people's (N, 134, 2) key points times `scale`: whose face is in the frame, its box, and its whole area."""
    for person, (points, visible) in enumerate(zip(keypoints[:, FACE], scores[:, FACE], strict=True)):
        bounds = bounds_of_points(points, visible)
        if bounds is not None:
            left, top, right, bottom = edges = bounds * np.tile(scale, 2)
            box = clip_box(edges, height, width)
            if box is not None:
                yield person, box, (right - left) * (bottom - top)


def largest_face(people: People, scale: np.ndarray, height: int, width: int) -> FaceBox | None:
    """The box of the largest face of people with 134 key points, in pixels once they are times `scale`, (2,)."""
    faces = [box for _, box, _ in _faces(people.keypoints, people.scores, scale, height, width)]
    return max(faces, key=lambda box: box.area, default=None)


def boxes_from_skeletons(drawn: Drawn, height: int, width: int) -> list[FaceBox | None]:
    """The box of the largest face drawn in each frame, in pixels of the output."""
    largest: list[FaceBox | None] = [None] * drawn.num_frames
    weights = np.zeros(drawn.num_frames)
    for person, box, area in _faces(drawn.keypoints, drawn.scores, np.array((width, height)), height, width):
        frame, weight = drawn.frames[person], box.area**2 / area  # what is out of the frame counts against it
        if weight > weights[frame]:
            largest[frame], weights[frame] = box, weight
    return largest


def boxes_from_masks(masks: Iterable[Image.Image], height: int, width: int) -> list[FaceBox | None]:
    """The face's box in each frame of `height` × `width` pixels, from one mask a frame."""
    return [box_from_mask(np.asarray(mask.convert("L")), height, width) for mask in masks]
