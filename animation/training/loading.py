"""The data set of a run, with its caches tied to the weights that fill them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from animation.face.detection import RECOGNISER, find_face_models
from animation.files import describe_file
from animation.training.cache import FrameCache
from animation.training.clips import Bucket
from animation.training.dataset import ClipDataset, Sample, to_unit_range
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
        weights = weights_file(vae_folder, "diffusion_pytorch_model", prefer_half=False)
        root = cache / f"latents-{settings.resample}-{_fingerprint(weights)}"
        sizes = {(bucket.width, bucket.height) for bucket in buckets}
        moments = {(width, height): FrameCache(root / f"{width}x{height}") for width, height in sizes}
    probe = encoders.moments(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))  # (1, 2·C, h, w)
    return ClipDataset(
        buckets,
        batch_size=batch_size,
        seed=settings.seed,
        sample_n_frames=settings.sample_n_frames,
        stride=settings.sample_stride,
        latent_channels=probe.shape[1] // 2,
        latent_scale=PROBE_SIZE // probe.shape[-1],
        face_models=settings.face_models,
        face_channel_order=channel_order,
        resample=Image.Resampling[settings.resample.upper()],
        embeddings=FrameCache(cache / f"faces-{channel_order}-{_fingerprint(recogniser)}"),
        moments=moments,
        noise_dims=(settings.noise_d_low, settings.noise_d_high),
    )


def encode_missing(
    samples: Sequence[Sample],
    moments: Mapping[tuple[int, int], FrameCache],
    encoders: FrozenEncoders,
    device: torch.device,
) -> None:
    """Replace the pixels of samples by moments of the VAE's posterior, and keep those.

    Args:
        samples: changed in place.
        moments: the caches by (width, height).
        encoders: on `device`.
    """
    for sample in samples:
        pixels = sample.tensors.pop("pixels", None)
        if pixels is not None:
            found = encoders.moments(to_unit_range(pixels.to(device))).cpu()
            for image, array in zip(sample.images, found.numpy(), strict=True):
                moments[pixels.shape[-1], pixels.shape[-2]].write(image, array)
            sample.tensors["moments"] = found


def _fingerprint(path: Path) -> str:
    """Tells files of weights apart."""
    return describe_file(path)["sha256"][:12]
