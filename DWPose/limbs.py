"""The photo's own bone lengths with the driver's joint angles: for builds that one scale an axis cannot fit."""

from dataclasses import dataclass

import numpy as np

from DWPose.alignment import FITTED
from DWPose.drawing import LIMBS
from DWPose.errors import InputError
from DWPose.keypoints import BODY, CONFIDENCE, FACE, LEFT_HAND, NECK, NOSE, RIGHT_HAND

BONES = LIMBS  # from the neck outwards: each bone's first point is placed before its second
_ENDS = np.array(BONES)  # (17, 2)
MIRRORED = (1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14)  # each bone's twin on the other side
FOLLOWERS = (  # points, the body point that they follow, and the bone whose length scales them
    (FACE, NOSE, (1, 0)),
    (LEFT_HAND, 7, (6, 7)),
    (RIGHT_HAND, 4, (3, 4)),
    (slice(18, 21), 13, (12, 13)),  # left foot
    (slice(21, 24), 10, (9, 10)),
)
LEAST_BONES = 2
EXTREME = 3  # times the person's scale: the most that one bone may differ from the others
FULL_LENGTH = 90  # percentile over the video of a bone's length in the picture: where it points across the view


@dataclass
class LimbFit:
    """Rebuilds a skeleton bone by bone, from the neck outwards.

    A bone that the driver turns towards the viewer is shortened in the picture; the photo's is shortened alike.

    Attributes:
        ratios: (17,) of each bone's full length in the photo to the driver's.
        face_ratio: of the sizes of the faces.
        scale: of the neck's path, the median ratio.
        necks: (18, 2), where the driver's neck mostly is from each body point, pixels; NaN where it never shows.
        offset: (2,), pixels of the photo.
        size, photo_size: (2,) widths and heights, pixels.
        confidence: points with larger scores are visible.
    """

    ratios: np.ndarray
    face_ratio: float
    scale: float
    necks: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    photo_size: np.ndarray
    confidence: float

    def __call__(self, keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Move key points (N, 134, 2) in 0..1 of the driver's frame, with scores (N, 134), to 0..1 of the photo."""
        return (self._rebuild(keypoints * self.size, scores > self.confidence) + self.offset) / self.photo_size

    def _rebuild(self, pixels: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Bone by bone; what hangs on a hidden point hangs on the nearest visible one towards the neck instead."""
        rebuilt = np.zeros(pixels.shape)
        held, moved = pixels.copy(), rebuilt.copy()  # for each point what hangs on it hangs on, before and after
        shown = visible[..., None]
        telling = shown[:, BODY] & np.isfinite(self.necks)  # where there is none, a hidden neck stays as it stands
        guesses = np.where(telling, pixels[:, BODY] + self.necks, 0).sum(axis=1) / np.maximum(telling.sum(axis=1), 1)
        hidden = ~shown[:, NECK] & telling.any(axis=1)
        held[:, NECK] = np.where(hidden, guesses, pixels[:, NECK])
        rebuilt[:, NECK] = moved[:, NECK] = held[:, NECK] * self.scale
        for (a, b), ratio in zip(BONES, self.ratios, strict=True):
            rebuilt[:, b] = moved[:, a] + (pixels[:, b] - held[:, a]) * ratio
            held[:, b] = np.where(shown[:, b], pixels[:, b], held[:, a])
            moved[:, b] = np.where(shown[:, b], rebuilt[:, b], moved[:, a])
        for points, leader, bone in FOLLOWERS:
            ratio = self.face_ratio if points is FACE else self.ratios[BONES.index(bone)]
            rebuilt[:, points] = moved[:, None, leader] + (pixels[:, points] - held[:, None, leader]) * ratio
        return rebuilt


def fit_limbs(
    photo_keypoints: np.ndarray,
    photo_scores: np.ndarray,
    photo_size: tuple[int, int],
    keypoints: np.ndarray,
    scores: np.ndarray,
    size: tuple[int, int],
    confidence: float = CONFIDENCE,
) -> LimbFit:
    """Measure the photo's bones against the driver's, and place the video where the photo's person stands.

    A bone that the photo does not show takes the ratio of its twin on the other side, else the median ratio.

    Args:
        photo_keypoints, photo_scores: (134, 2) and (134,) of the photo's person, in 0..1 of its width and height.
        keypoints, scores: (F, 134, 2) and (F, 134) of the driver, one person a frame, in 0..1 of its frame.
        photo_size, size: widths and heights of photo and frame, pixels.

    Raises:
        InputError: fewer than two bones are visible in both the photo and the driver.
    """
    extent, photo_extent = np.array(size, float), np.array(photo_size, float)
    pixels, photo_pixels = keypoints * extent, photo_keypoints * photo_extent
    visible, photo_visible = scores > confidence, photo_scores > confidence
    lengths = _largest(_lengths(pixels), visible[:, _ENDS[:, 0]] & visible[:, _ENDS[:, 1]])
    known = photo_visible[_ENDS].all(axis=-1) & (lengths > 0)
    if known.sum() < LEAST_BONES:
        raise InputError(
            f"the photo and the driver have {known.sum()} visible bones in common and limb alignment needs "
            f"{LEAST_BONES}; give a photo with the person in full view, or --alignment none"
        )
    ratios = np.where(known, _lengths(photo_pixels) / np.where(known, lengths, 1), np.nan)
    scale = float(np.nanmedian(ratios))
    ratios = np.where(np.isnan(ratios), ratios[list(MIRRORED)], ratios)
    ratios = np.clip(np.where(np.isnan(ratios), scale, ratios), scale / EXTREME, scale * EXTREME)
    faces = visible[:, FACE].mean(axis=1) > 0.5
    spread = _largest(_spread(pixels[:, FACE])[:, None], faces[:, None])[0]
    if photo_visible[FACE].mean() > 0.5 and spread > 0:
        face_ratio = float(_spread(photo_pixels[FACE]) / spread)
    else:  # most of the face is hidden in either
        face_ratio = ratios[BONES.index((NECK, NOSE))]
    ways = np.where((visible & visible[:, NECK, None])[..., None], pixels[:, NECK, None] - pixels, np.nan)[:, BODY]
    fit = LimbFit(ratios, face_ratio, scale, nan_median(ways, 0), np.zeros(2), extent, photo_extent, confidence)
    shared = (visible & photo_visible)[:, FITTED]
    if shared.any():
        fit.offset = (photo_pixels - fit._rebuild(pixels, visible))[:, FITTED][shared].mean(axis=0)
    return fit


def nan_median(values: np.ndarray, axis: int) -> np.ndarray:
    """The median along an axis, what is not finite passed over; NaN where there is nothing else."""
    return np.ma.median(np.ma.masked_invalid(values), axis=axis).filled(np.nan)


def _lengths(points: np.ndarray) -> np.ndarray:
    """Of the bones: (…, K, 2) → (…, 17)."""
    return np.linalg.norm(points[..., _ENDS[:, 1], :] - points[..., _ENDS[:, 0], :], axis=-1)


def _spread(points: np.ndarray) -> np.ndarray:
    """Root mean square distance from the centroid: (…, K, 2) → (…)."""
    return np.sqrt(np.square(points - points.mean(axis=-2, keepdims=True)).sum(axis=-1).mean(axis=-1))


def _largest(lengths: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A robust maximum of each column over the frames where it is visible: (F, N) → (N,), 0 where it never is."""
    columns = zip(lengths.T, visible.T, strict=True)
    return np.array([np.percentile(column[seen], FULL_LENGTH) if seen.any() else 0.0 for column, seen in columns])
