"""From a character and a pose to joints and key points, in pixels.

Key points are the 133 of COCO-WholeBody: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand.
"""

import functools
from dataclasses import dataclass

import numpy as np

from puppets.characters import NECK, Character
from puppets.motions import Limb, Pose

NUM_KEYPOINTS = 133
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)
HAND_LENGTH, FOOT_LENGTH, FOOT_HEIGHT = 0.085, 0.075, 0.03  # of the body's height
FINGER_ANGLES = (-0.95, -0.42, -0.14, 0.14, 0.42)  # thumb first, from the hand's axis towards the body
FINGER_LENGTHS = (0.75, 0.97, 1.0, 0.95, 0.85)  # of the hand
TURNED_AWAY = 0.15  # a feature whose longitude's cosine is below this is not seen from the front


@functools.cache
def unit_circle(points: int) -> np.ndarray:
    """(points, 2), from (1, 0) clockwise, as seen; not to be changed."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _direction(angle: float | np.ndarray, side: int) -> np.ndarray:
    """A unit vector turned outwards from hanging down: (…, 2) of x to the right and y down."""
    return np.stack([side * np.sin(angle), np.cos(angle)], axis=-1)


def _turn(points: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Turn points (…, 2) clockwise, as seen."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


@dataclass
class Head:
    """The head's ellipsoid in the picture.

    Attributes:
        centre: (2,), pixels.
        radii: (2,), half width and half height.
        yaw, pitch, roll: radians.
    """

    centre: np.ndarray
    radii: np.ndarray
    yaw: float
    pitch: float
    roll: float

    def place(self, longitude, latitude) -> np.ndarray:
        """(…, 2) pixels of places on the head; those behind it come to lie on its outline."""
        longitude = np.clip(np.asarray(longitude, float) + self.yaw, -np.pi / 2, np.pi / 2)
        latitude = np.clip(np.asarray(latitude, float) + self.pitch, -np.pi / 2, np.pi / 2)
        flat = np.stack(np.broadcast_arrays(np.cos(latitude) * np.sin(longitude), np.sin(latitude)), axis=-1)
        return _turn(self.centre + flat * self.radii, self.centre, self.roll)

    def outline(self, scale: float = 1.0, points: int = 48) -> np.ndarray:
        """(points, 2), the ellipse, from the picture's right clockwise."""
        return _turn(self.centre + scale * self.radii * unit_circle(points), self.centre, self.roll)

    def seen(self, longitude) -> np.ndarray:
        """Whether places of a longitude are turned to the viewer."""
        return np.cos(np.asarray(longitude, float) + self.yaw) > TURNED_AWAY


@dataclass
class Body:
    """A character in a pose.

    Attributes:
        character: who it is.
        scale: pixels of its standing height.
        head: its head.
        joints: (2,) pixels by name: neck, and shoulder, elbow, wrist, hip, knee, ankle with `left_` or `right_`.
        fingers: by side, (5, 5, 2): for each finger the wrist and four points.
        feet: by side, (3, 2): big toe, small toe, heel.
        keypoints: (133, 2), pixels.
        turned_away: (133,), features of the face that point away from the viewer.
        mouth: how open, 0..1.
    """

    character: Character
    scale: float
    head: Head
    joints: dict[str, np.ndarray]
    fingers: dict[str, np.ndarray]
    feet: dict[str, np.ndarray]
    keypoints: np.ndarray
    turned_away: np.ndarray
    mouth: float


def make_body(character: Character, pose: Pose, ground: tuple[float, float], scale: float) -> Body:
    """Place a character.

    Args:
        character: who.
        pose: how.
        ground: x and y of the point between its feet, pixels.
        scale: pixels of its standing height.
    """
    joints, fingers, feet = {}, {}, {}
    height = max(_reach(character, leg) for leg in (pose.left_leg, pose.right_leg)) + pose.lift
    hips = np.array([pose.shift, -height])
    for side, sign, leg in (("left", 1, pose.left_leg), ("right", -1, pose.right_leg)):
        half = character.leg_length / 2
        hip = hips + np.array([sign * character.hip_width / 2, 0])
        knee = hip + _direction(leg.angle, sign) * (half - FOOT_HEIGHT / 2) * leg.upper
        ankle = knee + _direction(leg.angle + leg.bend, sign) * (half - FOOT_HEIGHT / 2) * leg.lower
        joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
        across, down = sign * FOOT_LENGTH * np.array([0.62, 1, -0.25]), 0.75 * FOOT_HEIGHT * np.array([1, 0.7, 1])
        feet[side] = ankle + np.stack([across, down], axis=1)

    neck = _turn(hips - np.array([0, character.torso_length]), hips, pose.lean)
    joints["neck"] = neck
    for side, sign, arm in (("left", 1, pose.left_arm), ("right", -1, pose.right_arm)):
        shoulder = neck + _turn(np.array([sign * character.shoulder_width / 2, 0.015]), np.zeros(2), pose.lean)
        half, angle = character.arm_length / 2, arm.angle + arm.bend
        elbow = shoulder + _direction(arm.angle, sign) * half * arm.upper
        wrist = elbow + _direction(angle, sign) * half * arm.lower
        joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
        reach = HAND_LENGTH * np.array(FINGER_LENGTHS)[:, None] * np.array([0, 0.45, 0.66, 0.83, 1.0])
        rays = _direction(angle + np.array(FINGER_ANGLES), sign)
        fingers[side] = wrist + reach[..., None] * rays[:, None]

    radii, roll = np.array([character.head_width, character.head_height]) / 2, pose.lean + pose.roll
    centre = neck + _turn(np.array([0, -NECK - radii[1]]), np.zeros(2), roll)

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return np.asarray(ground) + scale * points

    for parts in (joints, fingers, feet):
        parts.update({name: to_pixels(part) for name, part in parts.items()})
    head = Head(to_pixels(centre), scale * radii, pose.yaw, pose.pitch, roll)
    keypoints, turned_away = _keypoints(character, head, joints, fingers, feet, pose.mouth)
    return Body(character, scale, head, joints, fingers, feet, keypoints, turned_away, pose.mouth)


def _reach(character: Character, leg: Limb) -> float:
    """From the hip down to the sole, of the height."""
    half = (character.leg_length - FOOT_HEIGHT) / 2
    return half * (np.cos(leg.angle) * leg.upper + np.cos(leg.angle + leg.bend) * leg.lower) + FOOT_HEIGHT


def eye_outline(character: Character, side: int) -> np.ndarray:
    """(6, 2) longitudes and latitudes: outer corner, two above, inner corner, two below; side 1 is the left eye."""
    width, height = character.eye_size, 0.75 * character.eye_size
    across = np.array([1, 0.4, -0.4, -1, -0.4, 0.4]) * width
    down = np.array([0, -1, -1, 0, 1, 1]) * height
    return np.stack([side * (character.eye_longitude + across), character.eye_latitude + down], axis=1)


def mouth_outline(character: Character, mouth: float, points: int = 12, scale: float = 1.0) -> np.ndarray:
    """(points, 2) longitudes and latitudes, from the right corner over the upper lip."""
    angles = np.pi + np.linspace(0, 2 * np.pi, points, endpoint=False)
    height = 0.055 + 0.09 * mouth
    latitude = character.eye_latitude + character.nose_length + 0.3
    across, down = scale * character.mouth_width * np.cos(angles), scale * height * np.sin(angles)
    return np.stack([across, latitude + down], axis=1)


def _face(character: Character, mouth: float) -> np.ndarray:
    """The 68 points of the face, (68, 2) longitudes and latitudes."""
    c, eyes = character, character.eye_latitude
    jaw = np.linspace(-np.pi / 2, np.pi / 2, 17)
    jaw = np.stack([0.95 * jaw, 1.25 * np.cos(jaw) ** 0.8], axis=1)
    across = np.linspace(-1, 1, 5)
    brows = [brow_line(c, side).T for side in (-1, 1)]
    bridge = np.stack([np.zeros(4), eyes + c.nose_length * np.linspace(0.1, 0.85, 4)], axis=1)
    base = np.stack([c.nose_width * across, eyes + c.nose_length + 0.03 * np.cos(np.pi * across / 2)], axis=1)
    right, left = eye_outline(c, -1), eye_outline(c, 1)[[3, 2, 1, 0, 5, 4]]  # from its inner corner
    lips, inner = mouth_outline(c, mouth), mouth_outline(c, mouth, 8, 0.6)
    return np.concatenate([jaw, *brows, bridge, base, right, left, lips, inner])


def brow_line(character: Character, side: int) -> np.ndarray:
    """(2, 5) longitudes and latitudes along a brow, in the picture's direction."""
    across = np.linspace(-1, 1, 5)
    outwards = side * across  # −1: inner end
    arch = 0.05 * np.cos(np.pi * across / 2)
    latitude = character.eye_latitude - 1.35 * character.eye_size - arch + character.brow_slope * outwards / 2
    return np.stack([side * character.eye_longitude + 1.25 * character.eye_size * across, latitude])


def _keypoints(character, head, joints, fingers, feet, mouth) -> tuple[np.ndarray, np.ndarray]:
    keypoints, turned_away = np.empty((NUM_KEYPOINTS, 2)), np.zeros(NUM_KEYPOINTS, bool)
    keypoints[0] = head.place(0, character.eye_latitude + character.nose_length)
    turned_away[0] = not head.seen(0)
    for k, side in ((1, 1), (2, -1)):
        keypoints[k] = head.place(side * character.eye_longitude, character.eye_latitude)
        turned_away[k] = not head.seen(side * character.eye_longitude)
        keypoints[k + 2] = ear_centre(head, character, side)
    for k, name in enumerate(("shoulder", "elbow", "wrist", "hip", "knee", "ankle")):
        keypoints[5 + 2 * k], keypoints[6 + 2 * k] = joints[f"left_{name}"], joints[f"right_{name}"]
    keypoints[17:20], keypoints[20:23] = feet["left"], feet["right"]
    face = _face(character, mouth)
    keypoints[FACE] = head.centre + 0.96 * (head.place(*face.T) - head.centre)
    turned_away[FACE] = ~head.seen(face[:, 0])
    turned_away[FACE][:17] = False  # the jaw is seen as the outline
    for part, side in ((LEFT_HAND, "left"), (RIGHT_HAND, "right")):
        keypoints[part] = np.concatenate([fingers[side][0, :1], *fingers[side][:, 1:]])
    return keypoints, turned_away


def ear_centre(head: Head, character: Character, side: int) -> np.ndarray:
    """(2,) pixels; side 1 is the left ear. It moves inwards when the head turns its side to the viewer, or away."""
    longitude = side * np.pi / 2 + head.yaw
    offset = head.radii * [1.1 * np.sin(longitude), np.sin(character.eye_latitude + 0.12 + head.pitch)]
    return _turn(head.centre + offset, head.centre, head.roll)
