"""A validation video during training, and its metrics."""

import logging
from collections.abc import Sequence
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
from animation.training.step import TrainableParts

logger = logging.getLogger(__name__)


class Validation:
    """Animates the validation photo with the parts being trained.

    Args:
        buckets: the sizes; the one whose aspect ratio is nearest to the poses' is used.
        svd: SVD's parts by name.
        channel_order: of the face crops.
    """

    def __init__(
        self, settings: TrainingSettings, case: ValidationCase, buckets: Sequence[Bucket], svd: dict, channel_order: str
    ):
        self.settings, self.svd, self.photo, self.poses = settings, svd, case.photo, case.poses
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

    def run(self, parts: TrainableParts, folder: Path) -> tuple[np.ndarray, dict[str, float]]:
        """Write the video of the current parts to `folder`.

        Returns:
            The frames, (F, H, W, 3) uint8 RGB, and means over them of L1, PSNR and SSIM, by name; none without true
            frames.
        """
        settings, (width, height) = self.settings, self.size
        pipeline = AnimationPipeline(
            **self.svd, unet=parts.unet, pose_net=parts.pose_net, face_encoder=parts.face_encoder
        )
        pipeline.set_progress_bar_config(desc="validating", unit="window", leave=False)
        # CLIP and the VAE keep their own number formats where what is trained runs in mixed precision.
        plain = torch.autocast(pipeline.vae.device.type, enabled=False)
        for name in ("_encode_image", "_encode_photo"):
            setattr(pipeline, name, plain(getattr(pipeline, name)))
        generator = torch.Generator(parts.unet.device).manual_seed(settings.seed)
        latents = pipeline.denoise(
            pipeline.encode(self.photo, self.poses, self.embedding, height, width, generator=generator),
            num_inference_steps=settings.validation_inference_steps,
            guidance_scale=settings.validation_guidance_scale,
            tile_size=max(2, settings.sample_n_frames),
            overlap=min(4, max(1, settings.sample_n_frames - 1)),
            generator=generator,
        )
        chunks = []
        with plain, AnimationWriter(folder, len(self.poses), CONDITIONED_FPS, png=False) as writer:
            for frames in pipeline.decode(latents):
                writer.write(frames)
                chunks.append(frames)
        video = np.concatenate(chunks)
        pairs = list(zip(video, self.truth if self.truth is not None else (), strict=False))
        measures = (metrics.l1, metrics.psnr, metrics.ssim) if pairs else ()
        return video, {measure.__name__: float(np.mean([measure(*pair) for pair in pairs])) for measure in measures}
