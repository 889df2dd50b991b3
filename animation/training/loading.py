"""The data set of a run, with its caches tied to the weights that fill them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from animation.face.detection import RECOGNISER, find_face_models
from animation.files import describe_file
from animation.training.cache import FrameCache
from animation.training.clips import Bucket
from animation.training.dataset import ClipDataset
from animation.training.settings import TrainingSettings
from animation.training.step import FrozenEncoders
from animation.weights.loading import resolve_svd_folder, weights_file

PROBE_SIZE = 64  # pixels a side of a picture that is encoded to see the latents' size


def make_dataset(
    settings: TrainingSettings,
    buckets: Sequence[Bucket],
    batch_size: int,
    channel_order: str,
    encoders: FrozenEncoders,
    device: torch.device,
) -> ClipDataset:
    """The clips as samples.

    Args:
        batch_size: of the global batch.
        channel_order: of the face crops.
        encoders: whose latents are cached.
        device: where they are.
    """
    cache = Path(settings.cache_dir or Path(settings.output_dir) / "cache")
    recogniser = find_face_models(settings.face_models) / RECOGNISER
    moments = None
    if settings.cache_latents:
        vae_folder = resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision) / "vae"
        root = cache / f"latents-{_fingerprint(weights_file(vae_folder, 'diffusion_pytorch_model', False))}"
        sizes = {(bucket.width, bucket.height) for bucket in buckets}
        moments = {(width, height): FrameCache(root / f"{width}x{height}") for width, height in sizes}
    probe = encoders.moments(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))  # (1, 2·C, h, w)
    return ClipDataset(
        buckets,
        batch_size,
        settings.seed,
        settings.sample_n_frames,
        settings.sample_stride,
        probe.shape[1] // 2,
        PROBE_SIZE // probe.shape[-1],
        settings.face_models,
        channel_order,
        FrameCache(cache / f"faces-{channel_order}-{_fingerprint(recogniser)}"),
        moments,
        (settings.noise_d_low, settings.noise_d_high),
    )


def _fingerprint(path: Path) -> str:
    """Tells files of weights apart."""
    return describe_file(path)["sha256"][:12]
