"""Pictures of puppets to train on: anybody, anywhere, near or far, sharp or blurred."""

import cv2
import numpy as np

from puppets.characters import Character, make_character
from puppets.motions import Pose, make_motion
from puppets.rendering import Place, Stage, Truth, render
from puppets.seeds import generator

CHARACTERS = 4000  # of the training split that recipes use


def make_stage(rng: np.random.Generator) -> Stage:
    """A wall and a floor of any colours."""
    wall, ground = (tuple(int(value) for value in rng.integers(30, 256, 3)) for _ in range(2))
    return Stage(wall, ground, float(rng.uniform(0.7, 0.95)))


def make_scene(index: int, what: str, width: int, height: int) -> tuple[np.ndarray, list[Truth]]:
    """A picture of one training character, or in a quarter of the pictures two, from far away to a portrait.

    Args:
        index: of the scene.
        what: the purpose: scenes of different purposes are independent.
        width, height: pixels.

    Returns:
        (height, width, 3) uint8 RGB, and the truth about who is in it.
    """
    rng = generator("training", index, what)
    count = 2 if rng.random() < 0.25 else 1
    return render([_actor(rng, k, count) for k in range(count)], make_stage(rng), width, height)


def _actor(rng: np.random.Generator, k: int, count: int) -> tuple[Character, Pose, Place]:
    character = make_character("training", int(rng.integers(CHARACTERS)))
    pose = make_motion("training", int(rng.integers(1 << 20)))(rng.uniform(0, 64))
    size = float(rng.uniform(0.55, 1.1) if count == 2 or rng.random() < 0.75 else rng.uniform(1.1, 2.6))
    x = (k + 0.5) / count + rng.uniform(-0.12, 0.12)
    y = rng.uniform(0.8, 1.0) if size < 1.1 else 0.1 + 0.84 * size + rng.uniform(-0.05, 0.1)
    return character, pose, Place(float(x), float(y), size)


def spoil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise and colours as cameras, codecs and small generators leave them."""
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2) * max(image.shape[:2]) / 160)
    image = image.astype(np.float32) * rng.uniform(0.9, 1.1, 3).astype(np.float32) + rng.uniform(-10, 10)
    if rng.random() < 0.5:
        image += rng.normal(0, rng.uniform(1, 8), image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)
