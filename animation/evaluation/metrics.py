"""The formulas of the metrics, on arrays. Images are (H, W, 3) uint8 RGB, points (N, 2) pixels."""

import math
from collections.abc import Sequence

import numpy as np

from animation.errors import InputError

VISIBLE = 0.3  # score above which a key point counts as seen, as in drawing


def l1(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference of the values in 0..1."""
    return float(np.abs(image.astype(np.int16) - truth).mean() / 255)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB: 10·log₁₀(255² / mean squared error); infinite for equal images."""
    return _decibels(np.square(image.astype(np.int32) - truth).mean())


def psnr_disco(image: np.ndarray, truth: np.ndarray) -> float:
    """The ratio as DisCo's evaluation script has it, dB: differences and squares overflow in uint8.

    The squared error of each value is taken modulo 256, so that large errors count as small ones. It is not a PSNR, but
    most tables in the field print it, and it compares with nothing else.
    """
    return _decibels(np.square(image - truth).mean(dtype=np.float64))


def _decibels(mean_squared_error: float) -> float:
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity with its authors' Gaussian window of 11×11 (Wang et al. 2004), mean of the three channels.

    Raises InputError: smaller images.
    """
    from skimage.metrics import structural_similarity

    if min(image.shape[:2]) < 11:
        raise InputError(f"frames of {image.shape[1]}×{image.shape[0]} pixels: SSIM needs at least 11×11")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(image, truth, channel_axis=-1, data_range=255, **window))


def cosine(embedding: np.ndarray, other: np.ndarray) -> float:
    """Cosine of the angle between two vectors (D,) that are not zero, −1..1."""
    return float(embedding @ other / (np.linalg.norm(embedding) * np.linalg.norm(other)))


def pck(
    keypoints: np.ndarray,
    scores: np.ndarray,
    targets: np.ndarray,
    target_scores: np.ndarray,
    thresholds: Sequence[float],
) -> list[float] | None:
    """Percentage of correct key points (Yang and Ramanan 2013), as fractions.

    A key point that is visible in the target is correct where it was also seen, and lies within threshold × the longer
    side of the box around the target's visible key points. Points are (N, 2), pixels of one image size, their scores
    (N,), visible above `VISIBLE`. None where the target shows fewer than two key points.
    """
    visible = target_scores > VISIBLE
    if visible.sum() < 2:
        return None
    size = np.ptp(targets[visible], axis=0).max()
    distances = np.linalg.norm(keypoints - targets, axis=1)
    distances = np.where(scores > VISIBLE, distances, np.inf)[visible]
    return [float((distances <= threshold * size).mean()) for threshold in thresholds]


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two sets of features.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½), Dowson and Landau 1982; for FVD: Unterthiner et al., arXiv 1812.01717. The
    trace of the root is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which exists for singular Σ too.
    The sets are (N, D) and (M, D), N and M at least 2.
    """
    features, others = np.asarray(features, np.float64), np.asarray(others, np.float64)
    shift = features.mean(axis=0) - others.mean(axis=0)
    covariance, other = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (features, others))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(shift @ shift + np.trace(covariance) + np.trace(other) - 2 * cross)
