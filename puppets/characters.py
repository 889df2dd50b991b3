"""Who there is: characters with faces, hair, clothes and proportions of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from puppets.seeds import generator

Colour = tuple[int, int, int]  # RGB, 0..255


def _palette(colours: str) -> np.ndarray:
    """(N, 3) uint8 RGB."""
    return np.frombuffer(bytes.fromhex(colours), np.uint8).reshape(-1, 3)


SKINS = _palette("f6d7bd eec39a dba878 c48a5a 9c6840 7a4d2e 57351f")
HAIRS = _palette("1e1a18 4a2f1d 7b4a22 b5762f e3c067 c2481f 9a9a98 5b3a78 2c6e6b")
IRISES = _palette("3b2414 2f6fb0 3f7d3c 6d7880 a06a1c")
CLOTHES = _palette("c8323c e07b28 ecc93b 4c9a46 2b8f94 2f62b5 6a45a3 c95a9c f1efe8 3a3d44 8a5a37 94c6de")
GLASSES = _palette("1b1b1f a8322f 2b4fa0 c9a227")
HAIR_STYLES = ("bald", "short", "parted", "spiky", "afro", "bob", "long", "bun", "ponytails")
BEARDS = ("none", "moustache", "goatee", "full")
NECK = 0.03  # of the height


class _Dice:
    """One character's random numbers, and what of it depends on more than its own field's."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.skin = self.colour(SKINS, 8)
        self.lips: Colour = tuple((0.55 * np.array(self.skin) + 0.45 * np.array([190, 40, 60])).astype(int).tolist())
        self.top, self.trousers = CLOTHES[rng.permutation(len(CLOTHES))[:2], None]  # palettes of one colour

    def colour(self, palette: np.ndarray, spread: int = 12) -> Colour:
        """One of the palette, a little changed."""
        return tuple(np.clip(self.choice(palette) + self.rng.integers(-spread, spread + 1, 3), 0, 255).tolist())

    def choice(self, options: Sequence[Any] | np.ndarray) -> Any:
        return options[self.rng.integers(len(options))]


def _drawn(how: Callable[[_Dice], Any], chance: float = 1.0, otherwise: Any = None) -> Any:
    """A field whose value is drawn so, by a chance, and is else another."""
    return field(metadata={"draw": lambda dice: how(dice) if chance == 1 or dice.rng.random() < chance else otherwise})


def _between(low: float, high: float) -> Any:
    return _drawn(lambda dice: float(dice.rng.uniform(low, high)))


@dataclass(frozen=True)
class Character:
    """A character, drawn field by field in their order.

    Lengths are fractions of its standing height, angles of the head in radians. The head is an ellipsoid; features sit
    on it at (longitude, latitude), longitude 0 in front, growing to the character's left, latitude growing downwards.
    """

    skin: Colour = _drawn(lambda dice: dice.skin)
    hair: Colour = _drawn(lambda dice: dice.colour(HAIRS))
    hair_style: str = _drawn(lambda dice: dice.choice(HAIR_STYLES))
    parting: float = _between(-0.7, 0.7)  # longitude of the lowest point of the hairline
    hairline: float = _between(-0.85, -0.6)  # its latitude
    iris: Colour = _drawn(lambda dice: dice.colour(IRISES))
    eye_longitude: float = _between(0.36, 0.52)
    eye_latitude: float = _between(-0.12, 0.02)
    eye_size: float = _between(0.15, 0.22)  # half its width, fraction of the head's half width
    brow_thickness: float = _between(0.05, 0.14)  # fraction of the head's half width
    brow_slope: float = _between(-0.12, 0.12)  # latitude from its inner to its outer end
    nose_length: float = _between(0.26, 0.42)  # latitude
    nose_width: float = _between(0.1, 0.2)  # longitude
    mouth_width: float = _between(0.22, 0.4)  # longitude, half
    lips: Colour = _drawn(lambda dice: dice.lips)
    beard: str = _drawn(lambda dice: dice.choice(BEARDS), 0.5, "none")
    glasses: Colour | None = _drawn(lambda dice: dice.colour(GLASSES), 0.35)
    top: Colour = _drawn(lambda dice: dice.colour(dice.top))
    long_sleeves: bool = _drawn(lambda _: True, 0.5, False)
    stripe: Colour | None = _drawn(lambda dice: dice.colour(CLOTHES), 0.3)  # across the chest
    trousers: Colour = _drawn(lambda dice: dice.colour(dice.trousers))
    long_trousers: bool = _drawn(lambda _: True, 0.65, False)
    shoes: Colour = _drawn(lambda dice: dice.colour(CLOTHES))
    head_height: float = _between(0.3, 0.35)
    head_width: float = _between(0.26, 0.31)
    leg_length: float = _between(0.31, 0.37)
    shoulder_width: float = _between(0.2, 0.28)
    hip_width: float = _between(0.12, 0.18)
    arm_length: float = _between(0.3, 0.35)  # shoulder to wrist
    limb_width: float = _between(0.055, 0.08)  # diameter of an upper arm

    @property
    def torso_length(self) -> float:
        """From the hips to the shoulders: what legs, neck and head leave."""
        return 1 - self.leg_length - self.head_height - NECK


def make_character(split: str, index: int) -> Character:
    """The character of an index, always the same. Raises ValueError as `puppets.seeds.generator`."""
    dice = _Dice(generator(split, index, "character"))
    return Character(**{f.name: f.metadata["draw"](dice) for f in fields(Character)})
