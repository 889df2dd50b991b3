"""One training step's arithmetic: a batch of clips and its random draws become a loss."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from animation.decoding import encode_frames
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.sampling import predicted_x0
from animation.settings import CONDITIONED_FPS
from animation.training.losses import conditioning_dropout, denoising_loss

MOTION_BUCKET_ID = 127
NOISE_AUG_STRENGTH = 0.02
CLIP_SIZE = (224, 224)
ENCODE_CHUNK = 4  # frames that the VAE encodes at a time; it mixes no frames


@dataclass
class Batch:
    """B samples of one size, or one device's share of them. Every random number of the step is in it.

    Attributes:
        reference: (B, 3, H, W) float32 in −1..1, RGB, the photo.
        poses: (B, F, 3, H, W) float32 in −1..1, RGB.
        face_masks: (B, F, 1, H, W) float32 in 0..1.
        face_embedding: (B, 512) float32, raw ArcFace; zeros where no face was found.
        pixels: (B, F, 3, H, W) float32 in −1..1, RGB; None where `moments` are given.
        moments: (B, F, 2·4, h, w) float32, mean and log variance of the VAE's posterior; None: encoded from `pixels`.
        sigma: (B,) noise level.
        dropout: (B,) uniform in 0..1.
        noise: (B, F, 4, h, w) standard normal, added to the latents times σ.
        reference_noise: (B, 3, H, W), added to the photo times 0.02.
        posterior_noise: (B, F, 4, h, w), draws the latents from the posterior; zeros take its mean.
        reference_posterior_noise: (B, 4, h, w), the same for the photo.
    """

    reference: torch.Tensor
    poses: torch.Tensor
    face_masks: torch.Tensor
    face_embedding: torch.Tensor
    sigma: torch.Tensor
    dropout: torch.Tensor
    noise: torch.Tensor
    reference_noise: torch.Tensor
    posterior_noise: torch.Tensor
    reference_posterior_noise: torch.Tensor
    pixels: torch.Tensor | None = None
    moments: torch.Tensor | None = None


class FrozenEncoders:
    """The parts that training never changes, in their own dtypes: VAE and CLIP, whose feature extractor normalises."""

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        image_encoder: CLIPVisionModelWithProjection,
        feature_extractor: CLIPImageProcessor,
    ):
        self.vae, self.image_encoder = vae, image_encoder
        self.mean, self.std = (
            torch.tensor(numbers, device=image_encoder.device)[:, None, None]
            for numbers in (feature_extractor.image_mean, feature_extractor.image_std)
        )

    @torch.no_grad()
    def image_token(self, images: torch.Tensor) -> torch.Tensor:
        """CLIP's projected embedding, (B, 3, H, W) in −1..1 → (B, 1, D) float32."""
        small = _resize_with_antialiasing(images, CLIP_SIZE)
        normalised = ((small + 1) / 2 - self.mean) / self.std
        return self.image_encoder(normalised.to(self.image_encoder.dtype)).image_embeds[:, None].float()

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> torch.Tensor:
        """The VAE's posterior, (N, 3, H, W) in −1..1 → (N, 2·4, h, w) float32, mean and log variance."""
        chunks = images.to(self.vae.dtype).split(ENCODE_CHUNK)
        return torch.cat([encode_frames(self.vae, chunk) for chunk in chunks]).float()


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """mean + std · noise, with moments (…, 2·C, h, w) and noise (…, C, h, w); log variances are clamped to −30..20."""
    mean, logvar = moments.chunk(2, dim=-3)
    return mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise


class TrainableParts(nn.Module):
    """PoseNet, FaceEncoder and UNet as one module, as distributed training wants them."""

    def __init__(self, pose_net: PoseNet, face_encoder: FaceEncoder, unet: PoseGuidedUNet):
        super().__init__()
        self.pose_net, self.face_encoder, self.unet = pose_net, face_encoder, unet

    def forward(
        self,
        latents: torch.Tensor,
        image_latents: torch.Tensor,
        sigma: torch.Tensor,
        full_image_token: torch.Tensor,
        image_token: torch.Tensor,
        face_embedding: torch.Tensor,
        poses: torch.Tensor,
    ) -> torch.Tensor:
        """Predict v, (B, F, 4, h, w).

        Args:
            latents: (B, F, 4, h, w), noisy, not yet scaled.
            image_latents: (B, 4, h, w), zeros where dropped.
            full_image_token: (B, 1, D), never dropped: the face tokens are computed from it.
            image_token: (B, 1, D), zeros where dropped.
        """
        batch, frames = latents.shape[:2]
        pose_latents = self.pose_net(poses.flatten(0, 1)).unflatten(0, (batch, frames))
        face_tokens = self.face_encoder(face_embedding, full_image_token)
        tokens = torch.cat([image_token, face_tokens.to(image_token.dtype)], dim=1)
        scaled = latents / (sigma[:, None, None, None, None] ** 2 + 1) ** 0.5
        sample = torch.cat([scaled, image_latents[:, None].expand(-1, frames, -1, -1, -1)], dim=2)
        time_ids = sample.new_tensor([CONDITIONED_FPS - 1, MOTION_BUCKET_ID, NOISE_AUG_STRENGTH]).expand(batch, -1)
        return self.unet(sample, 0.25 * sigma.log(), tokens, time_ids, pose_latents, return_dict=False)[0]


@dataclass
class StepResult:
    """(B,) losses with their graph, and the predicted v and the clean latents, (B, F, 4, h, w) each."""

    losses: torch.Tensor
    prediction: torch.Tensor
    latents: torch.Tensor


def training_step(
    parts: nn.Module,
    encoders: FrozenEncoders,
    batch: Batch,
    dropout_probability: float = 0.1,
    face_weight: float = 1.0,
    temporal_weight: float = 0.0,
) -> StepResult:
    """The loss of a batch (SVD's preconditioning: v-prediction in EDM's scaling).

    Args:
        parts: `TrainableParts`, bare or wrapped for distributed training.
        dropout_probability: p of `conditioning_dropout`.
        face_weight, temporal_weight: of `denoising_loss`.
    """
    with torch.no_grad():
        moments = batch.moments
        if moments is None:
            moments = encoders.moments(batch.pixels.flatten(0, 1)).unflatten(0, batch.pixels.shape[:2])
        latents = sample_posterior(moments, batch.posterior_noise) * encoders.vae.config.scaling_factor
        photo = batch.reference + NOISE_AUG_STRENGTH * batch.reference_noise
        image_latents = sample_posterior(encoders.moments(photo), batch.reference_posterior_noise)  # not scaled
        token = encoders.image_token(batch.reference)
        kept_token, kept_latents = conditioning_dropout(token, image_latents, batch.dropout, dropout_probability)
        sigma = batch.sigma[:, None, None, None, None]
        noisy = latents + sigma * batch.noise
        masks = F.interpolate(batch.face_masks.flatten(0, 1), latents.shape[-2:]).unflatten(0, latents.shape[:2])
    prediction = parts(noisy, kept_latents, batch.sigma, token, kept_token, batch.face_embedding, batch.poses)
    x0 = predicted_x0(prediction.float(), noisy, sigma)
    losses = denoising_loss(x0, latents, batch.sigma, masks, face_weight, temporal_weight)
    return StepResult(losses, prediction, latents)
