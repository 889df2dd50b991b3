"""Pixels to latents and back, through SVD's temporal VAE or a cheaper one, with or without gradients."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLTemporalDecoder, ModelMixin
from diffusers.models.autoencoders.autoencoder_dc import ResBlock
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.upsampling import Upsample2D
from torch.utils.checkpoint import checkpoint

LATENT_SIZE = 8  # pixels a side that one latent stands for
RECOMPUTED_BLOCKS = (ResnetBlock2D, TemporalResnetBlock, Upsample2D, AutoencoderTinyBlock, ResBlock)


def vae_device(vae: ModelMixin) -> torch.device:
    """Where a VAE computes: its own device, or the one that an offloading hook moves it, or its layers, to."""
    for module in vae.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return vae.device


def encode_frames(vae: ModelMixin, images: torch.Tensor) -> torch.Tensor:
    """The posterior of each frame, (n, 2·C, h, w): mean, which is the mode too, and log variance, not scaled.

    Args:
        vae: AutoencoderKLTemporalDecoder; AutoencoderTiny and AutoencoderDC have one of no variance.
        images: (n, 3, H, W), RGB in −1..1, where the VAE is and in its number format.
    """
    encoded = vae.encode(images)
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.parameters
    (mean,) = encoded.values()
    return torch.cat([mean, torch.full_like(mean, -torch.inf)], dim=1)


def decode_frames(vae: ModelMixin, latents: torch.Tensor, checkpointing: bool = False) -> torch.Tensor:
    """Decode frames together, in the VAE's number format, on its device; AutoencoderKLTemporalDecoder mixes them.

    Args:
        latents: (n, 4, h, w), scaled as the sampler's.
        checkpointing: where gradients are on, keep only the inputs of the decoder's blocks and run a block again for
            its gradients (Chen et al. 2016): the same numbers in a fraction of the memory.

    Returns:
        (n, 3, 8h, 8w) float32, RGB in −1..1 and a little beyond.
    """
    latents = (latents / vae.config.scaling_factor).to(vae_device(vae), vae.dtype)
    options = {"num_frames": len(latents)} if isinstance(vae, AutoencoderKLTemporalDecoder) else {}
    with recompute_blocks(vae.decoder) if checkpointing else contextlib.nullcontext():
        return vae.decode(latents, **options).sample.float()


@contextlib.contextmanager
def recompute_blocks(decoder: torch.nn.Module) -> Iterator[None]:
    """Within the context, single residual blocks of a decoder run again for their gradients.

    Not its four stages, as diffusers does it: the last one alone would keep three quarters of everything.
    """
    blocks = [module for module in decoder.modules() if isinstance(module, RECOMPUTED_BLOCKS)]
    own = {block: vars(block)["forward"] for block in blocks if "forward" in vars(block)}  # an offloading hook's
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
            if block in own:
                block.forward = own[block]
