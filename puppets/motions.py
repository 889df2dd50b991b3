"""How they move: smooth, periodic motions as joint angles over time."""

from dataclasses import dataclass, replace

import numpy as np

from puppets.seeds import generator

KINDS = ("walk", "wave", "dance", "turn", "arms_up")
TAU = 2 * np.pi


@dataclass(frozen=True)
class Limb:
    """An arm or a leg in the picture's plane.

    `angle` turns it outwards from hanging down, `bend` turns its lower half further, radians; `upper` and `lower` are
    how long its halves look, 1 in the picture's plane and less where they point to the viewer.
    """

    angle: float
    bend: float = 0.0
    upper: float = 1.0
    lower: float = 1.0


@dataclass(frozen=True)
class Pose:
    """One moment: lengths in body heights, angles in radians. Left and right are the character's own."""

    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb
    shift: float = 0.0  # of the hips, to the right of the picture
    lift: float = 0.0  # of the hips, upwards
    lean: float = 0.0  # of the torso, to the right of the picture
    yaw: float = 0.0  # of the head, to the character's left: to the right of the picture
    pitch: float = 0.0  # of the head, downwards
    roll: float = 0.0  # of the head, clockwise
    mouth: float = 0.0  # open, 0..1


@dataclass(frozen=True)
class Motion:
    """A motion of one kind; frame `period` is frame 0 again."""

    kind: str
    period: int  # frames
    phase: float  # radians
    strength: float  # about 1
    side: int  # 1: led by the left, −1: by the right
    style: tuple[float, float, float]  # in −1..1
    roams: bool = False  # moves over the stage too, leans and crouches, instead of staying on its spot

    def __call__(self, frame: float) -> Pose:
        """The pose at a frame, which need not be a whole number."""
        phase = TAU * frame / self.period + self.phase
        pose = _POSES[self.kind](self, phase)
        return _roam(self, pose, phase) if self.roams else pose


def make_motion(split: str, index: int, kind: str | None = None, roams: bool = False) -> Motion:
    """The motion of an index, always the same; of a kind of `KINDS`, or, left out, of any.

    Raises ValueError for another kind, and as `puppets.seeds.generator`.
    """
    rng = generator(split, index, "motion")
    drawn = KINDS[rng.integers(len(KINDS))]
    if kind not in (None, *KINDS):
        raise ValueError(f"motion {kind!r} is unknown; use one of {', '.join(KINDS)}")
    return Motion(
        kind=kind or drawn,
        period=int(rng.integers(16, 33)),
        phase=float(rng.uniform(0, TAU)),
        strength=float(rng.uniform(0.75, 1.15)),
        side=int(rng.choice([-1, 1])),
        style=tuple(float(value) for value in rng.uniform(-1, 1, 3)),
        roams=roams,
    )


def _sided(motion: Motion, leading: Limb, other: Limb) -> tuple[Limb, Limb]:
    """Left and right, of which the leading one is the motion's side."""
    return (leading, other) if motion.side > 0 else (other, leading)


def _roam(motion: Motion, pose: Pose, phase: float) -> Pose:
    sway, crouch = motion.strength * np.sin(phase + motion.style[0]), 1 - 0.05 * (1 - np.cos(phase + motion.style[1]))
    legs = {
        name: replace(leg, upper=crouch * leg.upper, lower=crouch * leg.lower)
        for name, leg in (("left_leg", pose.left_leg), ("right_leg", pose.right_leg))
    }
    return replace(pose, **legs, shift=pose.shift + 0.055 * sway, lean=pose.lean + 0.05 * sway)


def _walk(motion: Motion, phase: float) -> Pose:
    def leg(phase: float) -> Limb:
        raised = motion.strength * 0.95 * ((1 + np.sin(phase)) / 2) ** 2  # the knee comes towards the viewer
        return Limb(0.06, 0.0, upper=np.cos(raised), lower=1 - 0.25 * raised**2)

    def arm(phase: float) -> Limb:
        swing = 0.8 * motion.strength * np.sin(phase)
        return Limb(0.28 + 0.08 * motion.style[0], -0.15, upper=np.cos(swing), lower=np.cos(0.7 * swing))

    return Pose(
        arm(phase + np.pi),
        arm(phase),
        leg(phase),
        leg(phase + np.pi),
        shift=0.02 * np.sin(phase),
        lift=0.01 * np.cos(2 * phase),
        lean=0.04 * np.sin(phase),
        yaw=0.25 * motion.style[1] + 0.08 * np.sin(phase),
        roll=0.05 * np.sin(phase),
    )


def _wave(motion: Motion, phase: float) -> Pose:
    waving = Limb(1.9 + 0.25 * motion.style[0], 0.5 + 0.5 * motion.strength * np.sin(2 * phase))
    resting = Limb(0.3 + 0.05 * np.sin(phase), 0.25 + 0.2 * motion.style[1])
    leg = Limb(0.1)
    return Pose(
        *_sided(motion, waving, resting),
        leg,
        leg,
        lean=0.04 * np.sin(phase),
        yaw=0.35 * motion.style[2] + 0.15 * np.sin(phase),
        roll=0.08 * np.sin(phase),
        mouth=0.4 + 0.3 * np.sin(phase),
    )


def _dance(motion: Motion, phase: float) -> Pose:
    a, b, c = motion.style
    sway, beat = np.sin(phase), np.cos(2 * phase)
    leading = Limb(1.4 + 0.8 * motion.strength * sway, 0.5 + 0.6 * a * beat)
    other = Limb(1.2 - 0.7 * motion.strength * np.sin(phase + b), 0.4 - 0.6 * c * beat)
    bounce = 0.02 * motion.strength * (1 - beat)
    left = Limb(0.16 + 0.1 * sway, -0.2 - 0.15 * sway, upper=1 - 1.2 * bounce, lower=1 - 1.2 * bounce)
    right = Limb(0.16 - 0.1 * sway, -0.2 + 0.15 * sway, upper=1 - 1.2 * bounce, lower=1 - 1.2 * bounce)
    return Pose(
        *_sided(motion, leading, other),
        left,
        right,
        shift=0.05 * motion.strength * sway,
        lean=-0.12 * motion.strength * sway,
        yaw=0.4 * np.sin(phase + a),
        pitch=0.1 * beat,
        roll=0.12 * sway,
        mouth=0.3 + 0.3 * beat,
    )


def _turn(motion: Motion, phase: float) -> Pose:
    arm = Limb(0.3 + 0.1 * motion.style[0], 0.2 + 0.1 * np.sin(phase))
    leg = Limb(0.1 + 0.04 * motion.style[1])
    return Pose(
        arm,
        arm,
        leg,
        leg,
        lean=0.03 * np.sin(phase),
        yaw=0.85 * motion.strength * np.sin(phase),
        pitch=0.15 * motion.style[2] * np.sin(2 * phase),
        roll=0.05 * np.sin(phase + 1),
    )


def _arms_up(motion: Motion, phase: float) -> Pose:
    raised = (1 - np.cos(phase)) / 2
    angle, bend = 0.35 + (2.1 + 0.25 * motion.style[0]) * raised, 0.25 + 0.5 * motion.strength * raised
    leg = Limb(0.1 + 0.03 * motion.style[1])
    return Pose(
        Limb(angle, bend),
        Limb(angle, bend),
        leg,
        leg,
        lift=0.012 * np.sin(phase),
        yaw=0.2 * motion.style[2],
        pitch=-0.12 * raised,
        mouth=0.5 * raised,
    )


_POSES = {"walk": _walk, "wave": _wave, "dance": _dance, "turn": _turn, "arms_up": _arms_up}
