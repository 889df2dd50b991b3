"""Who there is: characters with faces, hair, clothes and proportions of their own."""

from dataclasses import dataclass

import numpy as np

from puppets.seeds import generator

Colour = tuple[int, int, int]  # RGB, 0..255

SKINS = ("f6d7bd", "eec39a", "dba878", "c48a5a", "9c6840", "7a4d2e", "57351f")
HAIRS = ("1e1a18", "4a2f1d", "7b4a22", "b5762f", "e3c067", "c2481f", "9a9a98", "5b3a78", "2c6e6b")
IRISES = ("3b2414", "2f6fb0", "3f7d3c", "6d7880", "a06a1c")
CLOTHES = (
    "c8323c",
    "e07b28",
    "ecc93b",
    "4c9a46",
    "2b8f94",
    "2f62b5",
    "6a45a3",
    "c95a9c",
    "f1efe8",
    "3a3d44",
    "8a5a37",
    "94c6de",
)
GLASSES = ("1b1b1f", "a8322f", "2b4fa0", "c9a227")
HAIR_STYLES = ("bald", "short", "parted", "spiky", "afro", "bob", "long", "bun", "ponytails")
BEARDS = ("none", "moustache", "goatee", "full")


@dataclass(frozen=True)
class Character:
    """A character. Lengths are fractions of its standing height, angles of the head in radians.

    The head is an ellipsoid; features sit on it at (longitude, latitude), longitude 0 in front, growing to the
    character's left, latitude growing downwards.
    """

    skin: Colour
    hair: Colour
    hair_style: str
    parting: float  # longitude of the lowest point of the hairline
    hairline: float  # its latitude, negative
    iris: Colour
    eye_longitude: float
    eye_latitude: float
    eye_size: float  # half its width, fraction of the head's half width
    brow_thickness: float  # fraction of the head's half width
    brow_slope: float  # latitude from its inner to its outer end
    nose_length: float  # latitude
    nose_width: float  # longitude
    mouth_width: float  # longitude, half
    lips: Colour
    beard: str
    glasses: Colour | None
    top: Colour
    long_sleeves: bool
    stripe: Colour | None  # across the chest
    trousers: Colour
    long_trousers: bool
    shoes: Colour
    head_height: float
    head_width: float
    leg_length: float
    shoulder_width: float
    hip_width: float
    arm_length: float  # shoulder to wrist
    limb_width: float  # diameter of an upper arm

    @property
    def torso_length(self) -> float:
        """From the hips to the shoulders: what legs, neck and head leave."""
        return 1 - self.leg_length - self.head_height - NECK


NECK = 0.03  # of the height


def make_character(split: str, index: int) -> Character:
    """The character of an index, always the same. Raises ValueError as `puppets.seeds.generator`."""
    rng = generator(split, index, "character")

    def colour(palette: tuple[str, ...], spread: int = 12) -> Colour:
        """One of the palette, a little changed."""
        base = np.frombuffer(bytes.fromhex(palette[rng.integers(len(palette))]), np.uint8)
        return tuple(int(value) for value in np.clip(base + rng.integers(-spread, spread + 1, 3), 0, 255))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    skin = colour(SKINS, 8)
    top, trousers = rng.permutation(len(CLOTHES))[:2]
    return Character(
        skin=skin,
        hair=colour(HAIRS),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
        parting=float(rng.uniform(-0.7, 0.7)),
        hairline=float(rng.uniform(-0.85, -0.6)),
        iris=colour(IRISES),
        eye_longitude=float(rng.uniform(0.36, 0.52)),
        eye_latitude=float(rng.uniform(-0.12, 0.02)),
        eye_size=float(rng.uniform(0.15, 0.22)),
        brow_thickness=float(rng.uniform(0.05, 0.14)),
        brow_slope=float(rng.uniform(-0.12, 0.12)),
        nose_length=float(rng.uniform(0.26, 0.42)),
        nose_width=float(rng.uniform(0.1, 0.2)),
        mouth_width=float(rng.uniform(0.22, 0.4)),
        lips=tuple(int(value) for value in np.clip(0.55 * np.array(skin) + 0.45 * np.array([190, 40, 60]), 0, 255)),
        beard=BEARDS[rng.integers(len(BEARDS))] if chance(0.5) else "none",
        glasses=colour(GLASSES) if chance(0.35) else None,
        top=colour(CLOTHES[top : top + 1]),
        long_sleeves=chance(0.5),
        stripe=colour(CLOTHES) if chance(0.3) else None,
        trousers=colour(CLOTHES[trousers : trousers + 1]),
        long_trousers=chance(0.65),
        shoes=colour(CLOTHES),
        head_height=float(rng.uniform(0.3, 0.35)),
        head_width=float(rng.uniform(0.26, 0.31)),
        leg_length=float(rng.uniform(0.31, 0.37)),
        shoulder_width=float(rng.uniform(0.2, 0.28)),
        hip_width=float(rng.uniform(0.12, 0.18)),
        arm_length=float(rng.uniform(0.3, 0.35)),
        limb_width=float(rng.uniform(0.055, 0.08)),
    )
