"""The driver's skeletons fitted to the photo's person: one scale and one offset an axis for the whole video."""

from dataclasses import dataclass

import numpy as np

from DWPose.errors import InputError
from DWPose.keypoints import BODY, CONFIDENCE

ALIGNMENTS = ("affine", "affine_legacy", "limb", "none")
FITTED = (0, 1, 2, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)  # body points but for elbows and wrists

FAR_FROM_PHOTO = 0.2  # of the person's height: a first pose further away often costs the face


@dataclass
class AxisFit:
    """x ↦ scale · x + offset, on each axis.

    Attributes:
        scale: (2,), of x and of y.
        offset: (2,), in 0..1 of the photo's width and height.
        keypoint_ids: the body points that were fitted.
    """

    scale: np.ndarray
    offset: np.ndarray
    keypoint_ids: np.ndarray

    def __call__(self, keypoints: np.ndarray, scores: np.ndarray | None = None) -> np.ndarray:
        """Move key points (…, 2) in 0..1 of the driver's frame to 0..1 of the photo, whatever their scores."""
        return keypoints * self.scale + self.offset


def fit_axes(
    photo_keypoints: np.ndarray,
    photo_scores: np.ndarray,
    keypoints: np.ndarray,
    aspect_ratio: float,
    confidence: float = CONFIDENCE,
) -> AxisFit:
    """Fit a video to what the photo shows: y by least squares, the x scale from it, the x offset by the mean.

    Args:
        photo_keypoints, photo_scores: (134, 2) and (134,) of the photo's person, in 0..1 of its width and height.
        keypoints: (F, 134, 2) of the driver, one person a frame, in 0..1 of its frame.
        aspect_ratio: the driver's width / height over the photo's: the x scale is the y scale times this, which keeps
            the driver's proportions. 1 for the released formula (`affine_legacy`).

    Raises:
        InputError: fewer than two points of the photo's body are visible.
    """
    visible = np.array([k for k in FITTED if photo_scores[k] > confidence], int)
    if len(visible) < 2:
        raise InputError(
            f"the photo shows {len(visible)} body points of a person and alignment needs 2; give a photo with the "
            "person in full view, or --alignment none"
        )
    targets = np.tile(photo_keypoints[visible], (len(keypoints), 1))  # (F · V, 2)
    sources = keypoints[:, visible].reshape(-1, 2)
    if np.ptp(sources[:, 1]) < 1e-9:
        raise InputError(
            "the driver's body points all have one height, so no scale can be fitted; give another driver, or "
            "--alignment none"
        )
    scale_y, offset_y = np.polyfit(sources[:, 1], targets[:, 1], 1)
    scale_x = scale_y * aspect_ratio
    offset_x = np.mean(targets[:, 0] - sources[:, 0] * scale_x)
    return AxisFit(np.array([scale_x, scale_y]), np.array([offset_x, offset_y]), visible)


def distance_to_photo(
    photo_keypoints: np.ndarray,
    photo_scores: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    size: tuple[int, int],
    confidence: float = CONFIDENCE,
) -> np.ndarray:
    """How far aligned skeletons, (F, 134, 2) and (F, 134), are from the photo's, (134, 2) and (134,), in 0..1 of it.

    Args:
        size: the photo's width and height, pixels.

    Returns:
        (F,) mean distance of the body points as a share of the larger extent of the photo's; NaN where no point is
        visible in both.
    """
    visible = _in_both(photo_scores, scores, confidence)
    body = photo_keypoints[BODY] * size
    height = np.ptp(body[photo_scores[BODY] > confidence], axis=0).max() if visible.any() else 1
    distances = np.ma.array(np.linalg.norm(keypoints[:, BODY] * size - body, axis=-1), mask=~visible)
    return (distances.mean(axis=1) / max(height, 1e-9)).filled(np.nan)


def leaves_photo(
    photo_scores: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE
) -> np.ndarray:
    """In which frames a body point that the photo shows, (134,) scores, is aligned to a place outside of it, (F,) bool.

    Args:
        keypoints, scores: (F, 134, 2) in 0..1 of the photo and (F, 134), aligned.
    """
    visible = _in_both(photo_scores, scores, confidence)
    outside = np.any((keypoints[:, BODY] < 0) | (keypoints[:, BODY] > 1), axis=-1)
    return np.any(outside & visible, axis=-1)


def _in_both(photo_scores: np.ndarray, scores: np.ndarray, confidence: float) -> np.ndarray:
    """Which body points the photo, (134,) scores, and each frame, (F, 134), show: (F, 18) bool."""
    return (scores[:, BODY] > confidence) & (photo_scores[BODY] > confidence)
