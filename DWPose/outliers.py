"""Joints that jump out of their motion for a frame, found by a Hampel filter (Hampel, JASA 1974)."""

import numpy as np

from DWPose.drawing import LIMBS
from DWPose.keypoints import BODY, CONFIDENCE
from DWPose.limbs import FOLLOWERS, nan_median
from DWPose.smoothing import body_height, fill_missing

OUTLIERS = ("keep", "drop")
REACH = 2  # frames before and after that a joint is compared with
LEAST_NEIGHBOURS = 2  # of them it must be visible in, else there is nothing to compare with
DEVIATIONS = 3.0  # standard deviations, by the median absolute deviation, that are still motion
LEAST_JUMP, LEAST_STRETCH = 0.12, 0.06  # of the body height: what is never an outlier, in place and in bone length
LONGEST_HAND = 0.25  # of the body height, from the wrist; a person's is 0.11
SIGMA = 1.4826  # standard deviations of normal numbers in a median absolute deviation


def find_outliers(keypoints: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Which joints are far from where their neighbours in time have them, and at the end of a bone of another length.

    Far is beyond three robust standard deviations of the frames around: more in fast motion than at rest.

    Args:
        keypoints, scores: (F, K, 2) and (F, K) of one person, K at least 18, in OpenPose's order.

    Returns:
        (F, 18) bool, false where a joint is hidden.
    """
    visible = scores[:, BODY] > confidence
    points = np.where(visible[..., None], keypoints[:, BODY], np.nan) / body_height(keypoints, scores > confidence)
    jumps = _far_from_median(points, LEAST_JUMP)
    stretched = np.zeros_like(jumps)
    for a, b in LIMBS:
        changed = _far_from_median(np.linalg.norm(points[:, a] - points[:, b], axis=-1)[:, None, None], LEAST_STRETCH)
        stretched[:, [a, b]] |= changed
    return jumps & stretched


def _far_from_median(values: np.ndarray, least: float) -> np.ndarray:
    """Hampel's test over the frames around each: (F, N, D) with NaN where unknown → (F, N) bool."""
    padded = np.pad(values, ((REACH, REACH), (0, 0), (0, 0)), constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1, axis=0)  # (F, N, D, frames)
    known = np.isfinite(around).all(axis=2).sum(axis=-1) - np.isfinite(values).all(axis=-1)  # its own frame apart
    with np.errstate(invalid="ignore"):
        centre = nan_median(around, -1)
        distance = np.linalg.norm(values - centre, axis=-1)  # (F, N)
        spread = nan_median(np.linalg.norm(around - centre[..., None], axis=2), -1)
        return (known >= LEAST_NEIGHBOURS) & (distance > np.maximum(least, DEVIATIONS * SIGMA * spread))


def drop_outliers(
    keypoints: np.ndarray, scores: np.ndarray, outliers: np.ndarray, missing: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fill outliers, and what hangs on them (hands, feet, the face), from the frames around; hide fingers out of reach.

    Args:
        keypoints, scores: (F, 134, 2) and (F, 134) of one person, scores all 0 where the person is not seen.
        outliers: (F, 18) bool.
        missing: see `fill_missing`.
    """
    bad = np.zeros(scores.shape, bool)
    bad[:, BODY] = outliers
    for points, leader, _ in FOLLOWERS:
        bad[:, points] = outliers[:, leader, None]
    keypoints, scores = keypoints.copy(), scores.copy()
    seen = scores.any(axis=1)
    for k in np.flatnonzero(bad.any(axis=0)):
        good = ~bad[:, k] & seen
        if good.any():
            keypoints[:, [k]], scores[:, [k]] = fill_missing(keypoints[:, [k]], scores[:, [k]], good, missing)
    reach = LONGEST_HAND * body_height(keypoints, scores > CONFIDENCE)
    for hand, wrist, _ in FOLLOWERS[1:3]:
        lost = np.linalg.norm(keypoints[:, hand] - keypoints[:, wrist, None], axis=-1) > reach
        keypoints[:, hand] = np.where(lost[..., None], keypoints[:, wrist, None], keypoints[:, hand])
        scores[:, hand] = np.where(lost, 0, scores[:, hand])
    return keypoints, scores
