"""A body as flat-coloured shapes, in the order in which they cover each other."""

from dataclasses import dataclass

import cv2
import numpy as np

from puppets.anatomy import FOOT_HEIGHT, Body, Head, brow_line, ear_centre, mouth_outline, unit_circle
from puppets.characters import Colour

# What a pixel can belong to; 0 is the background.
_SIDED = (f"{side}_{part}" for part in ("ear", "arm", "hand", "leg") for side in ("left", "right"))
PART = {name: number for number, name in enumerate(("background", "hair", "head", "torso", *_SIDED))}


@dataclass
class Shape:
    """A filled polygon: `points` (N, 2) in pixels, RGB, and the number of the part that it belongs to."""

    points: np.ndarray
    colour: Colour
    part: int


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (below 1) or lighter colour."""
    return tuple(int(np.clip(value * factor, 0, 255)) for value in colour)


def disc(centre: np.ndarray, radius: float, points: int = 24) -> np.ndarray:
    """A circle, (points, 2)."""
    return centre + radius * unit_circle(points)


def hull(*discs: tuple[np.ndarray, float]) -> np.ndarray:
    """The convex hull of circles of (centre, radius), (N, 2): of two, a capsule."""
    points = np.concatenate([disc(centre, radius) for centre, radius in discs]).astype(np.float32)
    return cv2.convexHull(points)[:, 0]


def shapes(body: Body) -> list[Shape]:
    """All shapes of a body, the hindmost first."""
    return [
        *_hair_behind(body),
        *(shape for side in ("right", "left") for shape in _leg(body, side)),
        *_torso(body),
        *_head(body),
        *(shape for side in ("right", "left") for shape in _arm(body, side)),
    ]


def _leg(body: Body, side: str) -> list[Shape]:
    c, s, part = body.character, body.scale, PART[f"{side}_leg"]
    hip, knee, ankle = (body.joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    radius = 0.62 * c.limb_width * s
    toe, little, heel = body.feet[side]
    shoe = 0.5 * FOOT_HEIGHT * s
    lift = np.array([0, -0.25 * shoe])
    shin = c.trousers if c.long_trousers else c.skin
    return [
        Shape(hull((knee, 0.85 * radius), (ankle, 0.7 * radius)), shade(shin, 0.94), part),
        Shape(hull((hip, radius), (knee, 0.85 * radius)), c.trousers, part),
        Shape(hull((toe + lift, shoe), (little + lift, shoe), (heel + lift, shoe), (ankle, 1.1 * shoe)), c.shoes, part),
    ]


def _torso(body: Body) -> list[Shape]:
    c, s, j, part = body.character, body.scale, body.joints, PART["torso"]
    shoulder_radius, hip_radius = 0.55 * c.limb_width * s, 0.62 * c.limb_width * s
    hips = [(j["left_hip"], hip_radius), (j["right_hip"], hip_radius)]
    shoulders = [(j["left_shoulder"], shoulder_radius), (j["right_shoulder"], shoulder_radius)]
    chest = [Shape(hull(*shoulders, *hips), c.top, part)]
    if c.stripe is not None:
        top = np.stack([j["left_shoulder"], j["right_shoulder"]])
        bottom = np.stack([j["left_hip"], j["right_hip"]])
        rows = [top + t * (bottom - top) for t in (0.35, 0.55)]
        chest.append(Shape(np.concatenate([rows[0], rows[1][::-1]]), c.stripe, part))
    below = body.head.centre + 0.8 * (j["neck"] - body.head.centre)
    neck = Shape(hull((j["neck"], 0.04 * s), (below, 0.04 * s)), shade(c.skin, 0.88), part)
    return [*chest, Shape(hull(*hips), c.trousers, part), neck]


def _arm(body: Body, side: str) -> list[Shape]:
    c, s = body.character, body.scale
    arm, hand = PART[f"{side}_arm"], PART[f"{side}_hand"]
    shoulder, elbow, wrist = (body.joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    radius = c.limb_width * s / 2
    fingers = body.fingers[side]  # (5, 5, 2)
    palm = hull((wrist, 0.6 * radius), *((finger[1], 0.014 * s) for finger in fingers[1:]))
    skin = shade(c.skin, 0.97)
    return [
        Shape(hull((shoulder, radius), (elbow, 0.85 * radius)), shade(c.top, 0.9), arm),
        Shape(hull((elbow, 0.85 * radius), (wrist, 0.65 * radius)), shade(c.top, 0.9) if c.long_sleeves else skin, arm),
        Shape(palm, skin, hand),
        *(
            Shape(hull((finger[0 if k == 0 else 1], 0.012 * s), (finger[4], 0.009 * s)), skin, hand)
            for k, finger in enumerate(fingers)
        ),
    ]


def _hair_behind(body: Body) -> list[Shape]:
    """The hair that head and body cover."""
    c, head, part = body.character, body.head, PART["hair"]
    style, (rx, ry) = c.hair_style, head.radii
    down = np.array([-np.sin(head.roll), np.cos(head.roll)])
    right = np.array([np.cos(head.roll), np.sin(head.roll)])
    shadow = shade(c.hair, 0.85)
    back = -0.35 * rx * np.sin(head.yaw) * right  # what is behind the head moves against its turn
    if style == "afro":
        return [Shape(disc(head.centre - 0.25 * ry * down + back, 1.3 * max(rx, ry), 36), shadow, part)]
    if style == "bun":
        return [Shape(disc(head.centre - 1.2 * ry * down + back, 0.4 * rx), shadow, part)]
    if style in ("bob", "long"):
        length = {"bob": 0.75, "long": 1.6}[style]
        crown, ends = head.centre - 0.1 * ry * down + back, head.centre + length * ry * down + back
        discs = [(crown, 1.14 * rx), *((ends + side * 0.8 * rx * right, 0.3 * rx) for side in (-1, 1))]
        return [Shape(hull(*discs), shadow, part)]
    if style == "ponytails":
        return [
            Shape(hull((root, 0.2 * rx), (root + 0.9 * ry * down + side * 0.25 * rx * right, 0.26 * rx)), shadow, part)
            for side in (-1, 1)
            for root in [head.centre + side * 1.15 * rx * np.cos(head.yaw) * right - 0.15 * ry * down]
        ]
    return []


def _cap(body: Body) -> list[Shape]:
    """The hair on the head, down to the hairline."""
    c, head, part = body.character, body.head, PART["hair"]
    if c.hair_style == "bald":
        return []
    screen = np.linspace(-np.pi / 2, np.pi / 2, 25)
    longitude = screen - head.yaw
    away = np.minimum(np.abs(longitude - c.parting) / (np.pi / 2), 1.2)
    hairline = c.hairline + {"parted": 0.45, "bob": 0.25, "long": 0.35}.get(c.hair_style, 0.3) * away**2
    if c.hair_style == "parted":
        hairline = c.hairline + 0.4 * np.clip((longitude - c.parting) / 2 + 0.3, 0, 1)
    lower = head.place(longitude, np.minimum(hairline, -0.2))
    angles = np.linspace(0, np.pi, 29)
    swell = 1.07 if c.hair_style != "spiky" else 1.05 + 0.2 * (np.arange(29) % 2)
    ring = np.stack([np.cos(angles) * 1.04, -np.sin(angles) * swell], axis=1) * head.radii
    roll = np.array([[np.cos(head.roll), np.sin(head.roll)], [-np.sin(head.roll), np.cos(head.roll)]])
    upper = head.centre + ring @ roll
    return [Shape(np.concatenate([upper, lower]), c.hair, part)]


def _head(body: Body) -> list[Shape]:
    c, head, part = body.character, body.head, PART["head"]
    rx = head.radii[0]
    ears = []
    for side, name in ((1, "left_ear"), (-1, "right_ear")):
        behind = np.cos(side * np.pi / 2 + head.yaw) <= 0.05
        ears.append((behind, Shape(disc(ear_centre(head, c, side), 0.17 * rx), shade(c.skin, 0.9), PART[name])))
    return [
        *(ear for behind, ear in ears if behind),
        Shape(head.outline(), c.skin, part),
        *_beard(body),
        *_features(body),
        *_cap(body),
        *(ear for behind, ear in ears if not behind),
        *_glasses(body),
    ]


def _beard(body: Body) -> list[Shape]:
    c, head, part = body.character, body.head, PART["head"]
    mouth = c.eye_latitude + c.nose_length + 0.3
    found = []
    if c.beard == "full":
        screen = np.linspace(-np.pi / 2, np.pi / 2, 21)
        upper = head.place(screen - head.yaw, c.eye_latitude + 0.25 + 0.42 * np.cos(screen - head.yaw).clip(0))
        chin = head.outline()[1:24]
        found.append(np.concatenate([upper, chin]))
    if c.beard == "goatee":
        found.append(head.place(*_oval(0, mouth + 0.28, 0.3, 0.24)))
    if c.beard in ("moustache", "goatee", "full"):
        found.append(head.place(*_oval(0, mouth - 0.13, c.mouth_width * 1.15, 0.075)))
    return [Shape(points, c.hair, part) for points in found]


def _oval(longitude: float, latitude: float, width: float, height: float) -> np.ndarray:
    """(2, 24) longitudes and latitudes of an oval on the head."""
    return (np.array([longitude, latitude]) + disc(np.zeros(2), 1.0) * [width, height]).T


def _features(body: Body) -> list[Shape]:
    c, head, part = body.character, body.head, PART["head"]
    rx = head.radii[0]
    found = []
    for side in (-1, 1):
        if not head.seen(side * c.eye_longitude):
            continue
        white = head.place(*_oval(side * c.eye_longitude, c.eye_latitude, c.eye_size, 0.8 * c.eye_size))
        centre = head.place(side * c.eye_longitude, c.eye_latitude)
        iris = 0.6 * c.eye_size * rx
        brow = _strip(head, *brow_line(c, side), c.brow_thickness / 2)
        found += [
            Shape(white, (250, 250, 248), part),
            Shape(disc(centre, iris), c.iris, part),
            Shape(disc(centre, 0.5 * iris, 16), (16, 14, 16), part),
            Shape(brow, shade(c.hair, 0.7), part),
        ]
    nose = c.eye_latitude + c.nose_length
    bridge = head.place(
        [-0.06, 0.06, c.nose_width, 0, -c.nose_width],
        [c.eye_latitude, c.eye_latitude, nose - 0.02, nose + 0.07, nose - 0.02],
    )
    found.append(Shape(bridge, shade(c.skin, 0.82), part))
    lips = head.place(*mouth_outline(c, body.mouth, 24).T)
    found.append(Shape(lips, c.lips, part))
    if body.mouth > 0.05:
        inside = head.place(*mouth_outline(c, body.mouth, 24, 0.6).T)
        found.append(Shape(inside, (70, 16, 24), part))
    return found


def _glasses(body: Body) -> list[Shape]:
    c, head, part = body.character, body.head, PART["head"]
    if c.glasses is None:
        return []
    found = []
    size, thick = 1.45 * c.eye_size, 0.045
    for side in (-1, 1):
        if head.seen(side * c.eye_longitude):
            outer, inner = (
                head.place(*_oval(side * c.eye_longitude, c.eye_latitude, size + t, 1.05 * size + t))
                for t in (thick, -thick)
            )
            ring = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])  # cut open where it closes
            found.append(ring)
        end, start = side * np.pi / 2, side * (c.eye_longitude + size)
        if head.seen(start):
            found.append(_strip(head, np.linspace(start, end, 6), c.eye_latitude, thick))
    inner = max(c.eye_longitude - size, 0.03)
    found.append(_strip(head, np.linspace(-inner, inner, 6), c.eye_latitude, thick))
    return [Shape(points, c.glasses, part) for points in found]


def _strip(head: Head, longitude: np.ndarray, latitude: np.ndarray | float, thick: float) -> np.ndarray:
    """A line on the head, `thick` to each side."""
    return np.concatenate([head.place(longitude, latitude - thick), head.place(longitude, latitude + thick)[::-1]])
