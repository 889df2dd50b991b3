"""A clip: characters that move on a stage, from an index, and its pictures with their skeletons."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from DWPose import drawing
from DWPose.keypoints import People
from puppets.characters import Character, make_character
from puppets.motions import Motion, make_motion
from puppets.rendering import Place, Stage, Truth, render
from puppets.seeds import generator

STROKES = 3  # the skeleton's canvas, in sizes of the picture, at most DWPose's own


@dataclass(frozen=True)
class Clip:
    """Characters, each with a motion and a place, on a stage."""

    actors: tuple[tuple[Character, Motion, Place], ...]
    stage: Stage

    def render(self, frame: float, width: int, height: int) -> tuple[np.ndarray, list[Truth]]:
        """The picture, (height, width, 3) uint8 RGB, and the truth about each actor. ValueError: below 16 pixels."""
        posed = [(character, motion(frame), place) for character, motion, place in self.actors]
        return render(posed, self.stage, width, height)

    def moved_like(self, other: "Clip") -> "Clip":
        """The same characters at the same places, moving as those of another clip do."""
        actors = tuple(
            (character, motion, place)
            for (character, _, place), (_, motion, _) in zip(self.actors, other.actors, strict=True)
        )
        return replace(self, actors=actors)


def make_stage(split: str, index: int) -> Stage:
    """The stage of an index: two pale colours."""
    rng = generator(split, index, "stage")
    wall = rng.integers(170, 246, 3)
    ground = np.clip(wall - rng.integers(25, 70, 3), 0, 255)
    return Stage(tuple(map(int, wall)), tuple(map(int, ground)), float(rng.uniform(0.74, 0.88)))


def make_clip(split: str, index: int, kind: str | None = None, people: int = 1, roams: bool = False) -> Clip:
    """The clip of an index, always the same.

    Args:
        split: `training` or `held_out`; their clips share nothing.
        index: 0 or more. Two people of a clip are the characters 2·index and 2·index + 1.
        kind: of motion; left out, as the index has it.
        people: 1 or 2; the second stands in front.
        roams: whether they move over the stage, see `Motion`.

    Raises:
        ValueError: an argument out of its range.
    """
    if people not in (1, 2):
        raise ValueError(f"people {people}: a clip has 1 or 2")
    rng = generator(split, index, "places")
    height, shift = rng.uniform(0.9, 1.0), rng.uniform(-0.03, 0.03)
    places = [Place(0.5 + shift, 0.94, height)]
    if people == 2:
        places = [Place(0.3 + shift, 0.9, 0.75 * height), Place(0.7 + shift, 0.95, 0.8 * height)]
    actors = tuple(
        (make_character(split, 2 * index + k), make_motion(split, 2 * index + k, kind, roams), place)
        for k, place in enumerate(places)
    )
    return Clip(actors, make_stage(split, index))


def people(truths: Sequence[Truth]) -> People:
    """The truth as an estimator would report it: 133 key points, with a score of 1 where they are `present`, else 0."""
    return People(
        np.stack([truth.person_box for truth in truths]),
        np.stack([truth.keypoints for truth in truths]),
        np.stack([truth.present.astype(float) for truth in truths]),
    )


def skeleton(truths: Sequence[Truth], width: int, height: int, canvas: int | None = None) -> np.ndarray:
    """The skeletons of a picture, drawn as DWPose's.

    Args:
        truths: of the actors.
        width, height: of the picture, pixels.
        canvas: short side of what is drawn on: 4 pixels of it are half a limb's width. Left out: `skeleton_canvas`.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    found = people(truths).openpose()
    keypoints = found.keypoints / (width, height)
    return drawing.draw(keypoints, found.scores, width, height, short_side=canvas or skeleton_canvas(width, height))


def skeleton_canvas(width: int, height: int) -> int:
    """The canvas for a picture: strokes of a small one stay more than a pixel wide."""
    return min(drawing.SHORT_SIDE, STROKES * min(width, height))


def face_masks(truths: Sequence[Truth], hands: bool = False) -> np.ndarray:
    """(H, W) uint8: 255 on the actors' faces, with `hands` also on hands and a 32nd of the height around; else 0.

    Training reads a latent's weight at one of its pixels, where a small hand would often not be.
    """
    mask = np.uint8(255) * np.any([truth.face_mask for truth in truths], axis=0)
    if hands:
        shown = np.any([truth.hand_mask for truth in truths], axis=0).astype(np.uint8)
        reach = 2 * (len(shown) // 32) + 1
        mask |= 255 * cv2.dilate(shown, np.ones((reach, reach), np.uint8))
    return mask


def encode_png(image: np.ndarray) -> bytes:
    """PNG of (H, W) or (H, W, 3) uint8 RGB."""
    image = image if image.ndim == 2 else image[..., ::-1]
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
