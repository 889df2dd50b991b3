"""The image encoder: what a puppet looks like, as the one token that the UNet is told about a photo.

    python -m recipes.image_encoder

A small vision transformer of CLIP's class. No text goes with puppets, so it learns the facts that a character and its
stage are made of: the first numbers of its embedding are those facts, each of zero mean and unit deviation.
"""

from dataclasses import astuple
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from puppets.characters import BEARDS, HAIR_STYLES
from puppets.clips import Clip, make_clip
from puppets.seeds import generator
from recipes.loop import recipe_arguments, train

SIDE = 128  # pixels of a photo
CONFIG = CLIPVisionConfig(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_size=32,
    projection_dim=128,
)
FOLDER = Path("checkpoints/tiny/SVD")
CHOICES = {"hair_style": HAIR_STYLES, "beard": BEARDS}
POPULATION = 1000  # characters that tell mean and deviation of each fact


def facts(clip: Clip) -> np.ndarray:
    """Colours, sizes and choices of a clip's first character, its stage and its place, as numbers, (N,)."""
    character, _, place = clip.actors[0]
    numbers: list[float] = [*clip.stage.wall, *clip.stage.ground, clip.stage.floor, *astuple(place)]
    for name, value in vars(character).items():
        if name in CHOICES:
            numbers += [float(value == choice) for choice in CHOICES[name]]
        elif name in ("glasses", "stripe"):  # a colour, or none
            numbers += [float(value is not None), *(value or (128, 128, 128))]
        else:
            numbers += value if isinstance(value, tuple) else [float(value)]
    return np.array(numbers, np.float32)


@cache
def _statistics() -> tuple[np.ndarray, np.ndarray]:
    population = np.stack([facts(make_clip("training", index)) for index in range(POPULATION)])
    return population.mean(0), population.std(0) + 1e-6


def make_sample(number: int) -> dict[str, np.ndarray]:
    """A photo, (3, 128, 128) uint8 RGB, and its facts, standardised."""
    rng = generator("training", number, "image encoder")
    clip = make_clip("training", int(rng.integers(1 << 20)))
    image, _ = clip.render(float(rng.uniform(0, 64)), SIDE, SIDE)
    mean, deviation = _statistics()
    return {"image": image.transpose(2, 0, 1), "facts": ((facts(clip) - mean) / deviation).clip(-4, 4)}


def loss(encoder: CLIPVisionModelWithProjection, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The squared error of the facts, and a little of the embedding's rest, which is kept at zero."""
    processor = CLIPImageProcessorPil()
    small = _resize_with_antialiasing(batch["image"].float() / 127.5 - 1, (224, 224))
    mean, deviation = (
        torch.tensor(value, device=small.device)[:, None, None] for value in (processor.image_mean, processor.image_std)
    )
    embedding = encoder(((small + 1) / 2 - mean) / deviation).image_embeds.float()
    known = batch["facts"].shape[1]
    return {
        "facts": (embedding[:, :known] - batch["facts"]).square().mean(),
        "rest": 0.1 * embedding[:, known:].square().mean(),
    }


def main() -> None:
    """Train, and write the folders `image_encoder` and `feature_extractor`."""
    args = recipe_arguments(__doc__, steps=3000, batch_size=32, learning_rate=1e-3)
    torch.manual_seed(0)
    folder = args.output / FOLDER / "image_encoder"
    kind = CLIPVisionModelWithProjection
    encoder = kind.from_pretrained(folder).float() if args.finetune else kind(CONFIG)
    train("image_encoder", encoder, loss, make_sample, args).half().save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(args.output / FOLDER / "feature_extractor")


if __name__ == "__main__":
    main()
