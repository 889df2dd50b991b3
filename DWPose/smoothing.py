"""Key points over time: frames without a person filled in, trembling smoothed away, both measured."""

import numpy as np

from DWPose.keypoints import BODY, CONFIDENCE

MISSING = ("interpolate", "hold", "blank")
MIN_CUTOFF = 1.5  # Hz: what is left of a person at rest
BETA = 6.0  # Hz for each body height a second: how soon the filter gives way to motion
SPEED_CUTOFF = 1.0  # Hz


def fill_missing(
    keypoints: np.ndarray, scores: np.ndarray, present: np.ndarray, missing: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the frames where a person was not found.

    Args:
        keypoints, scores: (F, K, 2) and (F, K).
        present: (F,) bool, at least one of them true.
        missing: `interpolate` between the frames before and after, `hold` the frame before, or `blank`: score 0. At
            either end of the video the nearest frame is held, unless blank.

    Returns:
        Key points and scores, as before where present.
    """
    if missing == "blank":
        return keypoints, np.where(present[:, None], scores, 0)
    before = last_present(present)
    if missing == "hold":
        return keypoints[before], scores[before]
    after = len(present) - 1 - last_present(present[::-1])[::-1]
    share = np.clip((np.arange(len(present)) - before) / np.maximum(after - before, 1), 0, 1)[:, None, None]
    values = np.concatenate([keypoints, scores[..., None]], axis=-1)
    between = values[before] * (1 - share) + values[after] * share
    filled = np.where(present[:, None, None], values, between)
    return filled[..., :2], filled[..., 2]


def last_present(present: np.ndarray) -> np.ndarray:
    """For each frame the last one up to it that is present, else the first one: (F,) bool → (F,) int."""
    found = np.flatnonzero(present)
    return found[np.maximum(np.searchsorted(found, np.arange(len(present)), "right") - 1, 0)]


def one_euro(keypoints: np.ndarray, scores: np.ndarray, fps: float, confidence: float = CONFIDENCE) -> np.ndarray:
    """Smooth a person's key points, (F, K, 2), with the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012).

    It runs over the frames forwards and backwards and takes the mean, so that nothing lags behind. A point starts anew
    wherever it becomes visible, and is left as it is where it is hidden. Speeds count in body heights, so that the size
    of the picture does not matter.
    """
    visible = scores > confidence
    height = body_height(keypoints, visible)
    forwards = _one_euro_pass(keypoints / height, visible, fps)
    backwards = _one_euro_pass(keypoints[::-1] / height, visible[::-1], fps)[::-1]
    return np.where(visible[..., None], (forwards + backwards) / 2 * height, keypoints)


def _one_euro_pass(points: np.ndarray, visible: np.ndarray, fps: float) -> np.ndarray:
    smooth = points.copy()
    speed = np.zeros_like(points[0])  # (K, 2), body heights a second
    for frame in range(1, len(points)):
        known = (visible[frame] & visible[frame - 1])[:, None]
        change = (points[frame] - smooth[frame - 1]) * fps
        speed = np.where(known, speed + _gain(SPEED_CUTOFF, fps) * (change - speed), 0)
        magnitude = np.linalg.norm(speed, axis=-1, keepdims=True)
        step = _gain(MIN_CUTOFF + BETA * magnitude, fps) * (points[frame] - smooth[frame - 1])
        smooth[frame] = np.where(known, smooth[frame - 1] + step, points[frame])
    return smooth


def _gain(cutoff: float | np.ndarray, fps: float) -> float | np.ndarray:
    """Of a first-order low-pass filter with a cutoff in Hz."""
    return 1 / (1 + fps / (2 * np.pi * cutoff))


def jitter(keypoints: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE) -> float:
    """How much a person's body points tremble: the mean length of their second differences, in body heights a frame².

    Points that are visible in three frames running count; 0 where there are none.
    """
    points, visible = keypoints[:, BODY], scores[:, BODY] > confidence
    lasting = visible[2:] & visible[1:-1] & visible[:-2]
    if not lasting.any():
        return 0.0
    bends = np.linalg.norm(points[2:] - 2 * points[1:-1] + points[:-2], axis=-1)
    return float(bends[lasting].mean() / body_height(keypoints, scores > confidence))


def body_height(keypoints: np.ndarray, visible: np.ndarray) -> float:
    """The larger extent of a person's visible body points, the median over frames; 1 where none is visible."""
    frames = zip(keypoints[:, BODY], visible[:, BODY], strict=True)
    extents = [np.ptp(points[seen], axis=0).max() for points, seen in frames if seen.any()]
    return float(np.median(extents)) or 1.0 if extents else 1.0
