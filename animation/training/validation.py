"""A validation video during training, and its metrics."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from animation.evaluation import metrics
from animation.face.embedding import embed_face
from animation.media.images import warn_if_stretched
from animation.media.writing import AnimationWriter
from animation.pipeline import AnimationPipeline
from animation.settings import CONDITIONED_FPS
from animation.training.clips import Bucket
from animation.training.settings import TrainingSettings, ValidationCase

logger = logging.getLogger(__name__)

# Generated and true frames, (F, H, W, 3) uint8 RGB each, to numbers by name.
Metrics = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


def default_metrics(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """L1, PSNR and SSIM, means over the frames."""
    pairs = list(zip(found, truth, strict=True))
    return {
        metric.__name__: float(np.mean([metric(*pair) for pair in pairs]))
        for metric in (metrics.l1, metrics.psnr, metrics.ssim)
    }


class _ValidationPipeline(AnimationPipeline):
    """Keeps CLIP and the VAE in their own number formats where what is trained runs in mixed precision."""

    def _encode_image(self, *args, **kwargs) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):
            return super()._encode_image(*args, **kwargs)

    def _encode_photo(self, *args, **kwargs) -> torch.Tensor:
        with torch.autocast(self.vae.device.type, enabled=False):
            return super()._encode_photo(*args, **kwargs)


class Validation:
    """Animates the validation photo with the parts being trained.

    Args:
        settings: of the run.
        case: what is animated.
        buckets: the sizes; the one whose aspect ratio is nearest to the poses' is used.
        svd: SVD's parts by name.
        channel_order: of the face crops.
        compare: with the true frames.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        case: ValidationCase,
        buckets: Sequence[Bucket],
        svd: dict,
        channel_order: str,
        compare: Metrics = default_metrics,
    ):
        self.settings, self.svd, self.compare = settings, svd, compare
        self.photo, self.poses = case.photo, case.poses
        aspect = np.divide(*self.poses[0].size)
        sizes = [(bucket.width, bucket.height) for bucket in buckets]
        self.size = min(sizes, key=lambda size: abs(np.log(size[0] / size[1] / aspect)))
        warn_if_stretched("the validation's poses", self.poses.sizes, self.size, "extract them at that aspect ratio")
        warn_if_stretched("the validation's photo", [self.photo.size], self.size, "crop it to that shape")
        self.embedding = embed_face(self.photo, settings.face_models, channel_order)
        self.truth = None
        if case.truth is not None:
            frames = [frame.resize(self.size, Image.Resampling.LANCZOS) for frame in case.truth[: len(self.poses)]]
            self.truth = np.stack([np.asarray(frame) for frame in frames])

    def run(self, parts: torch.nn.Module, folder: Path) -> tuple[np.ndarray, dict[str, float]]:
        """Write the video of the current parts to `folder`.

        Args:
            parts: has `pose_net`, `face_encoder` and `unet`.

        Returns:
            The frames, (F, H, W, 3) uint8 RGB, and the metrics by name; none without true frames.
        """
        settings = self.settings
        pipeline = _ValidationPipeline(
            **self.svd, unet=parts.unet, pose_net=parts.pose_net, face_encoder=parts.face_encoder
        )
        pipeline.set_progress_bar_config(desc="validating", unit="window", leave=False)
        width, height = self.size
        generator = torch.Generator(parts.unet.device).manual_seed(settings.seed)
        conditions = pipeline.encode(self.photo, self.poses, self.embedding, height, width, generator=generator)
        latents = pipeline.denoise(
            conditions,
            num_inference_steps=settings.validation_inference_steps,
            guidance_scale=settings.validation_guidance_scale,
            tile_size=max(2, settings.sample_n_frames),
            overlap=min(4, max(1, settings.sample_n_frames - 1)),
            generator=generator,
        )
        chunks = []
        plain = torch.autocast(pipeline.vae.device.type, enabled=False)
        with plain, AnimationWriter(folder, len(self.poses), CONDITIONED_FPS, png=False) as writer:
            for frames in pipeline.decode(latents):
                writer.write(frames)
                chunks.append(frames)
        video = np.concatenate(chunks)
        if self.truth is None:
            return video, {}
        return video, dict(self.compare(video[: len(self.truth)], self.truth))
