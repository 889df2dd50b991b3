"""Samples, read by worker processes: frames, skeletons, masks, face embedding, and every random number of the step."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from animation.face.detection import FaceFinder
from animation.face.embedding import EMBEDDING_DIM, embed_largest
from animation.training.cache import FrameCache
from animation.training.clips import Bucket, ClipError, choose_frames, read_clip, read_image
from animation.training.losses import NOISE_DIMS, cosine_interpolated_sigma
from animation.training.plan import Purpose, SampleKey, random_stream
from animation.training.step import Batch

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


def load_pixels(path: Path, size: tuple[int, int], mode: str, resample: Image.Resampling) -> np.ndarray:
    """Read an image at a size (width, height), as (C, H, W) uint8, C = 3 for mode RGB and 1 for mode L.

    Raises:
        ClipError: it cannot be read.
    """
    image = read_image(path).convert(mode)
    pixels = np.asarray(image if image.size == size else image.resize(size, resample))
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


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
        """Standard normal numbers, float32."""
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
    """Reads the samples that a `SamplePlan` names.

    A clip that cannot be used is replaced by another of its bucket, and told in the sample's `bad_clips`.

    Args:
        buckets: the clips.
        batch_size: of the global batch.
        seed: of every draw.
        sample_n_frames, stride: how many frames a sample takes, and how far apart.
        latent_channels, latent_scale: of the VAE: its channels, and pixels a side of one latent.
        face_models: antelopev2's folder.
        face_channel_order: handed to it, `rgb` or `bgr`.
        resample: how images are resized.
        embeddings: keeps face embeddings.
        moments: keeps VAE latents by (width, height); None: frames are encoded each time.
        noise_dims: see `cosine_interpolated_sigma`.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        batch_size: int,
        seed: int,
        sample_n_frames: int,
        stride: int,
        latent_channels: int,
        latent_scale: int,
        face_models: str | Path,
        face_channel_order: str,
        resample: Image.Resampling,
        embeddings: FrameCache,
        moments: dict[tuple[int, int], FrameCache] | None = None,
        noise_dims: Sequence[int] = NOISE_DIMS,
    ):
        self.buckets, self.batch_size, self.seed = buckets, batch_size, seed
        self.sample_n_frames, self.stride = sample_n_frames, stride
        self.latent_channels, self.latent_scale = latent_channels, latent_scale
        self.face_models, self.face_channel_order = face_models, face_channel_order
        self.resample = resample
        self.embeddings, self.moments, self.noise_dims = embeddings, moments, noise_dims
        self._finder: FaceFinder | None = None  # loaded in the worker that needs it

    def __getitem__(self, key: SampleKey) -> Sample:
        bucket, clip = self.buckets[key.bucket], key.clip
        bad: dict[str, str] = {}
        replacements = random_stream(self.seed, Purpose.REPLACEMENT, key.step, key.slot)
        for _ in range(REPLACEMENTS + 1):
            folder = bucket.clips[clip]
            try:
                sample = self._read(folder, bucket, key)
                sample.bad_clips = bad
                return sample
            except ClipError as error:
                bad[str(folder)] = str(error)
            clip = int(replacements.integers(len(bucket.clips)))
        return Sample({}, [], bad)

    def _read(self, folder: Path, bucket: Bucket, key: SampleKey) -> Sample:
        clip = read_clip(folder, self.sample_n_frames)
        stream = random_stream(self.seed, Purpose.FRAMES, key.step, key.slot)
        frames, reference = choose_frames(len(clip), self.sample_n_frames, self.stride, stream)
        size = (bucket.width, bucket.height)
        images = [clip.images[i] for i in frames]
        tensors = {
            "reference": torch.from_numpy(load_pixels(clip.images[reference], size, "RGB", self.resample)),
            "poses": stack_images(load_pixels(clip.poses[i], size, "RGB", self.resample) for i in frames),
            "face_masks": stack_images(self._mask(clip.masks[i], size) for i in frames),
            "face_embedding": torch.from_numpy(self._embedding(clip.images[reference])),
        }
        moments = self._cached_moments(images, size)
        if moments is None:
            tensors["pixels"] = stack_images(load_pixels(path, size, "RGB", self.resample) for path in images)
        else:
            tensors["moments"] = moments
        latent_shape = (self.latent_channels, bucket.height // self.latent_scale, bucket.width // self.latent_scale)
        tensors |= draw_random_numbers(
            self.seed,
            key,
            batch_size=self.batch_size,
            frames=len(frames),
            latent_shape=latent_shape,
            image_shape=(3, bucket.height, bucket.width),
            noise_dims=self.noise_dims,
        )
        return Sample(tensors, images)

    def _mask(self, path: Path | None, size: tuple[int, int]) -> np.ndarray:
        if path is None:
            return np.zeros((1, size[1], size[0]), np.uint8)
        return load_pixels(path, size, "L", self.resample)

    def _embedding(self, image: Path) -> np.ndarray:
        embedding = self.embeddings.read(image)
        if embedding is None:
            self._finder = self._finder or FaceFinder(self.face_models, threads=1)
            embedding = embed_largest(self._finder, np.asarray(read_image(image)), self.face_channel_order)
            embedding = np.zeros(EMBEDDING_DIM, np.float32) if embedding is None else embedding
            self.embeddings.write(image, embedding)
        return embedding

    def _cached_moments(self, images: Sequence[Path], size: tuple[int, int]) -> torch.Tensor | None:
        if self.moments is None:
            return None
        cached = [self.moments[size].read(image) for image in images]
        arrays = [array for array in cached if array is not None]
        return stack_images(arrays) if len(arrays) == len(images) else None


def stack_images(images: Iterable[np.ndarray]) -> torch.Tensor:
    """Arrays of one shape → one tensor with a first dimension more."""
    return torch.from_numpy(np.stack(list(images)))


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
