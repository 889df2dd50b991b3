"""Skeletons as pictures. The models were trained on exactly these pixels, so they are part of the interface."""

import colorsys
import threading
from collections.abc import Sequence

import cv2
import numpy as np

from DWPose.keypoints import CONFIDENCE, FACE, LEFT_HAND, RIGHT_HAND

SHORT_SIDE = 2160  # pixels of the canvas that is drawn on, before it is resized to the picture's size
_LIMB_STARTS = (1, 1, 2, 3, 5, 6, 1, 8, 9, 1, 11, 12, 1, 0, 14, 0, 15)
_LIMB_ENDS = (2, 5, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 0, 14, 16, 15, 17)
LIMBS = tuple(zip(_LIMB_STARTS, _LIMB_ENDS, strict=True))
COLOURS = tuple(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(k / 18, 1, 1)) for k in range(18))
FINGERS = tuple((0 if end % 4 == 1 else end - 1, end) for end in range(1, 21))  # five chains from the wrist
FINGER_COLOURS = tuple(colorsys.hsv_to_rgb(k / len(FINGERS), 1, 1) for k in range(len(FINGERS)))
LIMB_WIDTH, BODY_RADIUS, FINGER_WIDTH, HAND_RADIUS, FACE_RADIUS = 4, 4, 2, 4, 3  # pixels of the canvas
LIMB_BRIGHTNESS = 0.6
_LARGEST = 2**20  # pixels: coordinates beyond are far outside of any canvas, and near what OpenCV can hold

_thread = threading.local()


def canvas_size(width: int, height: int, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Width and height of the canvas for a picture, pixels; its short side is `short_side`."""
    short = min(width, height)
    across, down = (short_side if side == short else int(side * short_side / short) for side in (width, height))
    return across, down


def draw(
    keypoints: np.ndarray,
    scores: np.ndarray,
    width: int,
    height: int,
    confidence: float = CONFIDENCE,
    short_side: int = SHORT_SIDE,
) -> np.ndarray:
    """Draw people's skeletons on black.

    Args:
        keypoints, scores: (N, 134, 2) and (N, 134) in OpenPose's order, in 0..1 of the picture's width and height.
        width, height: of the picture, pixels.
        confidence: body points with larger scores are drawn, and limbs between two of at least this score.
        short_side: of the canvas, pixels. Strokes are so many of its pixels wide: a smaller one draws them thicker,
            for models that work at small sizes.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    size = canvas_size(width, height, short_side)
    canvas = _black_canvas(size)
    points = np.clip(keypoints * np.array(size, float), -_LARGEST, _LARGEST)  # (N, 134, 2)
    pixels = points.astype(int)
    for limb, colour in zip(LIMBS, COLOURS, strict=False):
        for ends, end_scores in zip(points[:, limb], scores[:, limb], strict=True):
            if (end_scores >= confidence).all():
                _draw_limb(canvas, ends, np.multiply(colour, end_scores.prod()))
    for k, colour in enumerate(COLOURS):
        for pixel, score in zip(pixels[:, k], scores[:, k], strict=True):
            if score > confidence:
                _draw_point(canvas, pixel, BODY_RADIUS, np.trunc(np.multiply(colour, score)).tolist())
    for hand in (LEFT_HAND, RIGHT_HAND):
        for hand_pixels, hand_scores in zip(pixels[:, hand], scores[:, hand], strict=True):
            _draw_hand(canvas, hand_pixels, hand_scores)
    for pixel, score in zip(pixels[:, FACE].reshape(-1, 2), scores[:, FACE].ravel(), strict=True):
        if _inside(pixel):
            _draw_point(canvas, pixel, FACE_RADIUS, (int(255 * score),) * 3)
    return cv2.resize(canvas, (width, height))


def _black_canvas(size: tuple[int, int]) -> np.ndarray:
    """A canvas that this thread keeps: blackening it again is faster than allocating another."""
    if getattr(_thread, "size", None) != size:
        _thread.size, _thread.canvas = size, np.empty((size[1], size[0], 3), np.uint8)
    _thread.canvas.fill(0)
    return _thread.canvas


def _draw_limb(canvas: np.ndarray, ends: np.ndarray, colour: np.ndarray) -> None:
    (x, y), (dx, dy) = (ends[0] + ends[1]) / 2, ends[0] - ends[1]
    axes = (int(np.hypot(dx, dy) / 2), LIMB_WIDTH)
    outline = cv2.ellipse2Poly((int(x), int(y)), axes, int(np.degrees(np.arctan2(dy, dx))), 0, 360, 1)
    # The whole picture is dimmed once the limbs are drawn: the same as drawing them in dimmed colours.
    bright = np.clip(np.trunc(colour), 0, 255)
    cv2.fillConvexPoly(canvas, outline, np.floor(bright * LIMB_BRIGHTNESS).tolist())


def _draw_hand(canvas: np.ndarray, pixels: np.ndarray, scores: np.ndarray) -> None:
    for (a, b), colour in zip(FINGERS, FINGER_COLOURS, strict=True):
        if _inside(pixels[a]) and _inside(pixels[b]):
            shade = np.multiply(colour, int(scores[a] * scores[b] * 255)).tolist()
            cv2.line(canvas, pixels[a].tolist(), pixels[b].tolist(), shade, FINGER_WIDTH)
    for pixel, score in zip(pixels, scores, strict=True):
        if _inside(pixel):
            _draw_point(canvas, pixel, HAND_RADIUS, (0, 0, int(255 * score)))


def _draw_point(canvas: np.ndarray, pixel: np.ndarray, radius: int, colour: Sequence[float]) -> None:
    cv2.circle(canvas, pixel.tolist(), radius, colour, cv2.FILLED)


def _inside(pixel: np.ndarray) -> bool:
    return pixel[0] >= 1 and pixel[1] >= 1
