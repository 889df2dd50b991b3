"""Pictures of the world, anti-aliased at any size, and the truth about each."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from puppets.anatomy import FACE, LEFT_HAND, NUM_KEYPOINTS, RIGHT_HAND, Body, make_body
from puppets.characters import Character, Colour
from puppets.drawing import PART, shapes
from puppets.motions import Pose

SUBPIXEL_BITS = 4
CANVAS = 768  # pixels: smaller pictures are drawn up to 4 times as large, then averaged
FRAME_HEIGHT, FRAME_WIDTH = 0.84, 0.92  # of the frame, that one character and its span of arms may take
SPAN = 1.08  # of the height, arms and hands stretched out


@dataclass(frozen=True)
class Stage:
    """What stands behind the characters: a wall and a floor of one colour each; `floor` is where, of the height."""

    wall: Colour
    ground: Colour
    floor: float = 0.82


@dataclass(frozen=True)
class Place:
    """Where a character stands: `x` and `y` of its feet and `height`, of the frame's width and height."""

    x: float = 0.5
    y: float = 0.94
    height: float = 1.0  # of the largest that fits


@dataclass
class Truth:
    """What is to be known about one character in one picture, in pixels from its upper left corner.

    Attributes:
        keypoints: (133, 2), COCO-WholeBody.
        visible: (133,), seen in the picture.
        present: (133,), in the frame and not turned away, though something may cover it: what is drawn as skeleton.
        face_box: (4,) x_min, y_min, x_max, y_max of the face from forehead to chin.
        landmarks: (5, 2): the eye, the eye, nose, mouth corner, mouth corner, from the picture's left, as face
            detectors order them.
        person_box: (4,), of all that is drawn of the character inside the frame.
        face_mask, hand_mask: (H, W) bool, the face and the hands where nothing covers them.
    """

    keypoints: np.ndarray
    visible: np.ndarray
    present: np.ndarray
    face_box: np.ndarray
    landmarks: np.ndarray
    person_box: np.ndarray
    face_mask: np.ndarray
    hand_mask: np.ndarray


def _keypoint_parts() -> np.ndarray:
    """(133, number of parts) bool: on which parts a key point is seen."""
    allowed = np.zeros((NUM_KEYPOINTS, len(PART)), bool)
    head = ("head", "hair")
    rows = [head, head, head, ("left_ear",), ("right_ear",)]
    for joint in (("arm", "torso"), ("arm",), ("arm", "hand"), ("leg", "torso"), ("leg",), ("leg",)):
        rows += [tuple(part if part == "torso" else f"{side}_{part}" for part in joint) for side in ("left", "right")]
    rows += [("left_leg",)] * 3 + [("right_leg",)] * 3
    for k, parts in enumerate(rows):
        allowed[k, [PART[part] for part in parts]] = True
    for part in head:
        allowed[FACE, PART[part]] = True
    for part in ("left_ear", "right_ear"):
        allowed[FACE.start : FACE.start + 17, PART[part]] = True  # the jaw ends at the ears
    for part, side in ((LEFT_HAND, "left"), (RIGHT_HAND, "right")):
        allowed[part, PART[f"{side}_hand"]] = True
        allowed[part.start, PART[f"{side}_arm"]] = True
    return allowed


KEYPOINT_PARTS = _keypoint_parts()


def render(
    actors: Sequence[tuple[Character, Pose, Place]], stage: Stage, width: int, height: int
) -> tuple[np.ndarray, list[Truth]]:
    """Draw a picture, the last actor in front.

    Args:
        actors: who, how and where.
        stage: behind them.
        width, height: pixels, 16 or more.

    Returns:
        (height, width, 3) uint8 RGB, and the truth about each actor, in their order.

    Raises:
        ValueError: the picture is smaller.
    """
    if min(width, height) < 16:
        raise ValueError(f"a picture of {width}×{height} pixels is too small: each side needs 16 or more")
    scale = figure_height(width, height)
    bodies = [
        make_body(character, pose, (place.x * width, place.y * height), place.height * scale)
        for character, pose, place in actors
    ]
    factor = min(4, max(1, round(CANVAS / min(width, height))))
    canvas = np.empty((height * factor, width * factor, 3), np.uint8)
    floor = round(stage.floor * height) * factor
    cv2.rectangle(canvas, (0, 0), (width * factor, floor - 1), stage.wall, cv2.FILLED)
    cv2.rectangle(canvas, (0, floor), (width * factor, height * factor), stage.ground, cv2.FILLED)
    owners = np.zeros((len(actors), height, width), np.uint8)  # by actor, the part that a pixel shows
    for body, owner in zip(bodies, owners, strict=True):
        for shape in shapes(body):
            _fill(canvas, shape.points * factor, shape.colour, cv2.LINE_AA)
            _fill(owner, shape.points, shape.part, cv2.LINE_8)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) if factor > 1 else canvas
    return image, [_truth(body, owners, i) for i, body in enumerate(bodies)]


def figure_height(width: int, height: int) -> float:
    """Pixels of the tallest character that fits into a frame with its arms stretched out."""
    return min(FRAME_HEIGHT * height, FRAME_WIDTH * width / SPAN)


def _fill(canvas: np.ndarray, points: np.ndarray, colour, line: int) -> None:
    fixed = np.round((points - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], colour, line, SUBPIXEL_BITS)


def _truth(body: Body, owners: np.ndarray, index: int) -> Truth:
    own, (height, width) = owners[index], owners.shape[1:]
    covered = (owners[index + 1 :] > 0).any(axis=0)
    keypoints = body.keypoints
    pixels = np.floor(keypoints).astype(int)
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    x, y = pixels.clip(0, (width - 1, height - 1)).T
    visible = inside & ~body.turned_away & KEYPOINT_PARTS[np.arange(len(x)), own[y, x]] & ~covered[y, x]
    drawn = np.argwhere(own > 0)
    person_box = np.concatenate([drawn.min(0)[::-1], drawn.max(0)[::-1] + 1]) if len(drawn) else np.zeros(4)
    face, outline = np.zeros_like(own), body.head.outline()
    _fill(face, outline, 1, cv2.LINE_8)
    arms, hands = (np.isin(own, [PART[f"{side}_{part}"] for side in ("left", "right")]) for part in ("arm", "hand"))
    forehead = outline[:, 1].min() + 0.2 * np.ptp(outline[:, 1])
    box = np.array([outline[:, 0].min(), forehead, outline[:, 0].max(), outline[:, 1].max()])
    mouth = keypoints[[FACE.start + 48, FACE.start + 54]]
    return Truth(
        keypoints=keypoints,
        visible=visible,
        present=inside & ~body.turned_away,
        face_box=box.clip(0, (width, height, width, height)),
        landmarks=np.stack([keypoints[2], keypoints[1], keypoints[0], *mouth]),
        person_box=person_box.astype(float),
        face_mask=(face > 0) & ~(arms | hands | covered),
        hand_mask=hands & ~covered,
    )
