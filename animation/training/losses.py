"""What training minimises: the distribution of noise levels, conditioning dropout and the weighted loss."""

import math
from collections.abc import Sequence

import torch

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 700.0, 0.5
IMAGE_DIM, NOISE_DIMS = 64, (32, 64)


def cosine_interpolated_sigma(u: torch.Tensor, noise_dims: Sequence[int] = NOISE_DIMS) -> torch.Tensor:
    """Quantiles of the interpolated cosine distribution of noise levels (simple diffusion, arXiv 2301.11093).

    The log signal-to-noise ratio of the cosine schedule is −2·log tan(θ), θ running along a line between the limits;
    a schedule made for `d` pixels is shifted by 2·log(d / IMAGE_DIM), and log-ratios are interpolated in u between the
    schedules shifted for the two `noise_dims`.

    Args:
        u: in 0 … 1, any shape; σ falls from 700 at 0 to 0.002 at 1.
        noise_dims: the first rules high noise levels, the second low ones; smaller means more noise.

    Returns:
        σ, of u's shape and dtype.
    """
    logsnr_first, logsnr_last = (-2 * math.log(sigma / SIGMA_DATA) for sigma in (SIGMA_MAX, SIGMA_MIN))

    def shifted(dim: int) -> torch.Tensor:
        """log SNR at u for noise made for `dim` pixels a side."""
        shift = 2 * math.log(dim / IMAGE_DIM)
        theta_first, theta_last = (math.atan(math.exp((shift - end) / 2)) for end in (logsnr_first, logsnr_last))
        return shift - 2 * torch.log(torch.tan(theta_first + u * (theta_last - theta_first)))

    logsnr = torch.lerp(shifted(noise_dims[0]), shifted(noise_dims[1]), u)
    return SIGMA_DATA * torch.exp(-logsnr / 2)


def conditioning_dropout(
    image_token: torch.Tensor, image_latents: torch.Tensor, r: torch.Tensor, probability: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero the image token where r < 2p and the image latents where p ≤ r < 3p, for classifier-free guidance.

    Args:
        image_token: (B, 1, D).
        image_latents: (B, 4, h, w).
        r: (B,), uniform in 0 … 1, one number a sample.
        probability: p, in 0 … 1/3.

    Returns:
        Both, of the same shapes. Face tokens and poses are never dropped.
    """
    keep_token = (r >= 2 * probability)[:, None, None]
    keep_latents = ((r < probability) | (r >= 3 * probability))[:, None, None, None]
    return image_token * keep_token, image_latents * keep_latents


def denoising_loss(
    predicted_x0: torch.Tensor,
    x0: torch.Tensor,
    sigma: torch.Tensor,
    face_masks: torch.Tensor,
    face_weight: float = 1.0,
    temporal_weight: float = 0.0,
) -> torch.Tensor:
    """The mean of (1 + σ²)/σ² · (1 + face_weight · mask) · e² with e = x̂₀ − x₀, for each sample.

    Above 0, `temporal_weight` adds so many times the mean of √((1 + σ²)/σ²) · |Δe|, e's change from frame to frame: the
    predicted frames shall change as the true ones do. It is not squared: what should stand still flickers little but
    everywhere, and squares see only the large errors of what moves.

    Args:
        predicted_x0, x0: (B, F, 4, h, w).
        sigma: (B,).
        face_masks: (B, F, 1, h, w) in 0 … 1, 1 at the face.
        face_weight: 0 or more; 1 in the paper.
        temporal_weight: 0 or more; 0 in the paper. Above 0 it needs two frames.

    Returns:
        (B,) float32.
    """
    weight = ((1 + sigma**2) / sigma**2)[:, None, None, None, None]
    error = predicted_x0.float() - x0.float()
    loss = (weight * (1 + face_weight * face_masks) * error.square()).flatten(1).mean(1)
    if temporal_weight:
        loss = loss + temporal_weight * (weight.sqrt() * error.diff(dim=1).abs()).flatten(1).mean(1)
    return loss
