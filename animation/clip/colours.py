"""The photo's colours for every frame, without flicker."""

from collections.abc import Callable, Iterable

import cv2
import numpy as np

LEAST_SPREAD = 1e-3  # of a channel's standard deviation: beneath there is nothing to scale


def statistics(image_rgb: np.ndarray) -> np.ndarray:
    """(2, 3): mean and standard deviation of the channels of CIELAB, of (H, W, 3) uint8 RGB."""
    lab = _lab(image_rgb).reshape(-1, 3)
    return np.stack([lab.mean(axis=0), lab.std(axis=0)])


def matcher(
    photo_rgb: np.ndarray, frames: Iterable[np.ndarray], window: int
) -> Callable[[int, np.ndarray], np.ndarray]:
    """A function of a frame's number and pixels that gives it the photo's colours (Reinhard et al. 2001).

    Each channel of CIELAB gets the photo's mean and standard deviation. A frame is measured together with those around
    it, so that a person who moves does not make the picture flicker.

    Args:
        photo_rgb: (H, W, 3) uint8.
        frames: all frames in their order, (H, W, 3) uint8 each; read once.
        window: how many frames around each one are measured together.

    Returns:
        `(number, (H, W, 3) uint8) → (H, W, 3) uint8`.
    """
    target = statistics(photo_rgb)
    smooth = moving_mean(np.stack([statistics(frame) for frame in frames]), window)

    def match(number: int, frame: np.ndarray) -> np.ndarray:
        """One frame with the photo's colours."""
        (mean, spread), (target_mean, target_spread) = smooth[number], target
        scale = np.where(spread > LEAST_SPREAD, target_spread / np.maximum(spread, LEAST_SPREAD), 1)
        lab = (_lab(frame) - mean) * scale + target_mean
        rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
        return (rgb.clip(0, 1) * 255).round().astype(np.uint8)

    return match


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over up to `window` values around each one, shorter at the ends; (F, …) → (F, …)."""
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    places = np.arange(len(values))
    starts = np.maximum(places - window // 2, 0)
    stops = np.minimum(places + window // 2 + 1, len(values))
    return (sums[stops] - sums[starts]) / (stops - starts).reshape(-1, *[1] * (values.ndim - 1))


def _lab(image_rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image_rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
