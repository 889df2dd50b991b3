"""Samples, read by worker processes: frames, skeletons, masks, face embedding, and every random number of the step."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from animation.face.detection import RECOGNISER, FaceFinder, find_face_models
from animation.face.embedding import EMBEDDING_DIM, embed_largest
from animation.files import describe_file
from animation.training.cache import FrameCache
from animation.training.clips import Bucket, ClipError, choose_frames, read_clip, read_image
from animation.training.losses import NOISE_DIMS, cosine_interpolated_sigma
from animation.training.plan import Purpose, SampleKey, random_stream
from animation.training.settings import TrainingSettings
from animation.training.step import Batch, FrozenEncoders
from animation.weights.loading import resolve_svd_folder, weights_file

REPLACEMENTS = 20  # clips that are tried in place of one that cannot be read


@dataclass
class Sample:
    """One sample on the host.

    Attributes:
        tensors: `Batch`'s fields without their batch dimension; images are still uint8.
        images: the frames' files, under which `moments` are cached.
        bad_clips: clips that could not be used in this sample's place, and why.
    """

    tensors: dict[str, torch.Tensor]
    images: list[Path]
    bad_clips: dict[str, str] = field(default_factory=dict)


def draw_random_numbers(
    seed: int,
    key: SampleKey,
    batch_size: int,
    frames: int,
    latent_shape: Sequence[int],
    image_shape: Sequence[int],
    noise_dims: Sequence[int] = NOISE_DIMS,
) -> dict[str, torch.Tensor]:
    """All random numbers of a sample that `Batch` holds, the same on every machine and device.

    σ is stratified: u is drawn from the sample's own of `batch_size` equal parts of 0…1.

    Args:
        latent_shape: (C, h, w) of one frame's latents.
        image_shape: (3, H, W) of the photo.
        noise_dims: see `cosine_interpolated_sigma`.
    """
    stream = random_stream(seed, Purpose.NOISE, key.step, key.slot)
    u, dropout = stream.random(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(stream.standard_normal(shape, dtype=np.float32))

    sigma = cosine_interpolated_sigma(torch.tensor((key.stratum + u) / batch_size, dtype=torch.float64), noise_dims)
    return {
        "sigma": sigma.float(),
        "dropout": torch.tensor(dropout, dtype=torch.float32),
        "noise": normal(frames, *latent_shape),
        "reference_noise": normal(*image_shape),
        "posterior_noise": normal(frames, *latent_shape),
        "reference_posterior_noise": normal(*latent_shape),
    }


def ignore_interrupts(_worker: int) -> None:
    """Workers leave an interrupt to the process that they read for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class ClipDataset(Dataset):
    """Reads the samples that a `SamplePlan` names, and keeps face embeddings and latents on disk.

    A clip that cannot be used is replaced by another of its bucket, and told in the sample's `bad_clips`. Caches are
    tied to the weights that fill them.

    Args:
        batch_size: of the global batch.
        channel_order: of the face crops, `rgb` or `bgr`.
        latent_channels, latent_scale: of the VAE: its channels, and pixels a side of one latent.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        buckets: Sequence[Bucket],
        batch_size: int,
        channel_order: str,
        latent_channels: int,
        latent_scale: int,
    ):
        self.settings, self.buckets, self.batch_size = settings, buckets, batch_size
        self.channel_order, self.latent_channels, self.latent_scale = channel_order, latent_channels, latent_scale
        self._resample = Image.Resampling[settings.resample.upper()]
        self._finder: FaceFinder | None = None  # loaded in the worker that needs it
        cache = Path(settings.cache_dir or Path(settings.output_dir) / "cache")
        recogniser = find_face_models(settings.face_models) / RECOGNISER
        self._embeddings = FrameCache(cache / f"faces-{channel_order}-{_fingerprint(recogniser)}")
        self._latents: Path | None = None  # has a folder for each size
        if settings.cache_latents:
            vae = resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision) / "vae"
            weights = weights_file(vae, "diffusion_pytorch_model", prefer_half=False)
            self._latents = cache / f"latents-{settings.resample}-{_fingerprint(weights)}"

    def __getitem__(self, key: SampleKey) -> Sample:
        clips, clip = self.buckets[key.bucket].clips, key.clip
        bad: dict[str, str] = {}
        replacements = random_stream(self.settings.seed, Purpose.REPLACEMENT, key.step, key.slot)
        for _ in range(REPLACEMENTS + 1):
            try:
                tensors, images = self._read(clips[clip], key)
                return Sample(tensors, images, bad)
            except ClipError as error:
                bad[str(clips[clip])] = str(error)
            clip = int(replacements.integers(len(clips)))
        return Sample({}, [], bad)

    def _read(self, folder: Path, key: SampleKey) -> tuple[dict[str, torch.Tensor], list[Path]]:
        settings, bucket = self.settings, self.buckets[key.bucket]
        clip = read_clip(folder, settings.sample_n_frames)
        stream = random_stream(settings.seed, Purpose.FRAMES, key.step, key.slot)
        frames, reference = choose_frames(len(clip.images), settings.sample_n_frames, settings.sample_stride, stream)
        size = (bucket.width, bucket.height)

        def pixels(path: Path, mode: str = "RGB") -> torch.Tensor:
            """(3, H, W) uint8, or (1, H, W) for mode L."""
            image = read_image(path).convert(mode)
            resized = image if image.size == size else image.resize(size, self._resample)
            return torch.from_numpy(np.atleast_3d(np.array(resized))).permute(2, 0, 1).contiguous()

        def mask(path: Path | None) -> torch.Tensor:
            return torch.zeros(1, *size[::-1], dtype=torch.uint8) if path is None else pixels(path, "L")

        images = [clip.images[i] for i in frames]
        tensors = {
            "reference": pixels(clip.photos[reference]),
            "poses": torch.stack([pixels(clip.poses[i]) for i in frames]),
            "face_masks": torch.stack([mask(clip.masks[i]) for i in frames]),
            "face_embedding": torch.from_numpy(self._embedding(clip.images[reference])),
        }
        cached = [self._moments(*size).read(image) for image in images] if self._latents is not None else [None]
        if any(array is None for array in cached):
            tensors["pixels"] = torch.stack([pixels(image) for image in images])
        else:
            tensors["moments"] = torch.from_numpy(np.stack(cached))
        return tensors | draw_random_numbers(
            settings.seed,
            key,
            batch_size=self.batch_size,
            frames=len(frames),
            latent_shape=(self.latent_channels, size[1] // self.latent_scale, size[0] // self.latent_scale),
            image_shape=(3, *size[::-1]),
            noise_dims=(settings.noise_d_low, settings.noise_d_high),
        ), images

    def _embedding(self, image: Path) -> np.ndarray:
        embedding = self._embeddings.read(image)
        if embedding is None:
            self._finder = self._finder or FaceFinder(self.settings.face_models, threads=1)
            embedding = embed_largest(self._finder, np.asarray(read_image(image)), self.channel_order)
            embedding = np.zeros(EMBEDDING_DIM, np.float32) if embedding is None else embedding
            self._embeddings.write(image, embedding)
        return embedding

    def _moments(self, width: int, height: int) -> FrameCache:
        return FrameCache(self._latents / f"{width}x{height}")

    def encode_missing(self, samples: Sequence[Sample], encoders: FrozenEncoders, device: torch.device) -> None:
        """Where latents are cached, replace the pixels of samples by moments of the VAE's posterior, and keep those."""
        for sample in samples:
            if self._latents is not None and "pixels" in sample.tensors:
                pixels = sample.tensors.pop("pixels")
                sample.tensors["moments"] = found = encoders.moments(to_unit_range(pixels.to(device))).cpu()
                for image, array in zip(sample.images, found.numpy(), strict=True):
                    self._moments(pixels.shape[-1], pixels.shape[-2]).write(image, array)


def _fingerprint(path: Path) -> str:
    """Tells files of weights apart."""
    return describe_file(path)["sha256"][:12]


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 → float32 in −1..1."""
    return pixels.float() / 127.5 - 1


def make_batch(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Stack samples of one size on a device; all of them hold pixels, or all moments."""
    stacked = {
        name: torch.stack([sample.tensors[name] for sample in samples]).to(device, non_blocking=True)
        for name in samples[0].tensors
    }
    for name in ("reference", "poses", "pixels"):
        if name in stacked:
            stacked[name] = to_unit_range(stacked[name])
    stacked["face_masks"] = stacked["face_masks"].float() / 255
    return Batch(**stacked)
