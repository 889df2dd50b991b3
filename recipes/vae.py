"""The VAE: pictures of puppets as one sixty-fourth of their pixels, 16 numbers each.

    python -m recipes.vae
    python -m recipes.vae --finetune  # the decoder alone: the UNet knows these latents

diffusers' AutoencoderDC (arXiv 2410.10733): its shortcuts carry pixels through from the first step on, so that it
learns in minutes what other VAEs take hours for. It learns from crops around the characters; flat walls need little
practice. Its latents get zero mean and unit deviation in each channel, as diffusion wants them, and a little noise, so
that what a UNet leaves of noise is decoded well too.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC

from puppets.anatomy import LEFT_HAND, RIGHT_HAND
from puppets.clips import make_clip
from puppets.seeds import generator
from recipes.loop import recipe_arguments, train

SIDE, CROP = 128, 64  # pixels: of a picture, and of what is cut out of it
CHANNELS, LAYERS = (32, 32, 64, 128), (0, 1, 1, 2)
CONFIG = {
    "latent_channels": 16,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": CHANNELS,
    "decoder_block_out_channels": CHANNELS,
    "encoder_layers_per_block": LAYERS,
    "decoder_layers_per_block": LAYERS,
    "scaling_factor": 1.0,
}
LATENT_NOISE = 0.03
SPREAD_WEIGHT = 0.02
FOLDER = Path("checkpoints/tiny/SVD/vae")


def make_sample(number: int) -> dict[str, np.ndarray]:
    """Four crops of a picture: of the head, a hand, the character, one from anywhere; (4, 3, 64, 64) uint8 RGB."""
    rng = generator("training", number, "vae")
    image, (truth,) = make_clip("training", int(rng.integers(1 << 20))).render(float(rng.uniform(0, 64)), SIDE, SIDE)
    hand = truth.keypoints[LEFT_HAND if rng.random() < 0.5 else RIGHT_HAND]
    crops = []
    for box in (truth.face_box, (*hand.min(0), *hand.max(0)), truth.person_box, (0, 0, SIDE, SIDE)):
        x, y = rng.uniform(box[:2], box[2:])
        left, top = (int(np.clip(value - rng.uniform(0, CROP), 0, SIDE - CROP)) for value in (x, y))
        crops.append(image[top : top + CROP, left : left + CROP].transpose(2, 0, 1))
    return {"images": np.stack(crops)}


def loss(vae: AutoencoderDC, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Errors of the reconstruction, and how far latents are from zero mean and unit deviation."""
    images = batch["images"].flatten(0, 1).float() / 127.5 - 1
    latents = vae.encode(images).latent.float()
    decoded = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
    spread, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return {
        "absolute": F.l1_loss(decoded, images),
        "squared": 4 * F.mse_loss(decoded, images),
        "spread": SPREAD_WEIGHT * ((spread - 1) ** 2 + mean**2).mean(),
    }


def main() -> None:
    """Train, and write a diffusers folder."""
    args = recipe_arguments(__doc__, steps=6000, batch_size=4, learning_rate=2e-3)
    torch.manual_seed(0)
    folder = args.output / FOLDER
    vae = AutoencoderDC.from_pretrained(folder).float() if args.finetune else AutoencoderDC(**CONFIG)
    vae.encoder.requires_grad_(not args.finetune)
    name = "vae_decoder" if args.finetune else "vae"
    train(name, vae, loss, make_sample, args).half().save_pretrained(folder)


if __name__ == "__main__":
    main()
