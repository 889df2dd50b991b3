"""Who is who from frame to frame, by the overlap of boxes; and whom to follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from DWPose.errors import InputError
from DWPose.keypoints import BODY, COCO_BODY, CONFIDENCE, People

LEAST_OVERLAP = 0.1  # intersection over union with where a person is expected
LARGEST_STEP = 0.5  # of the box's longer side: how far a person may have moved where nothing overlaps
LARGEST_GROWTH = 2  # ratio of areas, there
LEAST_VISIBLE = 4  # body points that make a person of a picture in which the detector found nobody
MEMORY = 90  # frames after which an unseen person is forgotten
COASTING = 5  # frames for which an unseen person is expected to go on moving
MARGIN = 0.05  # of a body's larger extent: what is kept free around it in a widened box
CHOICES = ("track", "largest", "all")  # or a number


@dataclass
class _Track:
    box: np.ndarray  # (4,), where last seen
    velocity: np.ndarray  # (4,), pixels a frame
    frame: int  # when last seen

    def expected(self, frame: int) -> np.ndarray:
        return self.box + self.velocity * min(frame - self.frame, COASTING)

    def see(self, box: np.ndarray, frame: int) -> None:
        self.velocity = (self.velocity + (box - self.box) / (frame - self.frame)) / 2
        self.box, self.frame = box, frame


def is_person(people: People, confidence: float = CONFIDENCE, trusting: bool = False) -> np.ndarray:
    """Whether each is a person, (N,) bool: the detector said so.

    Args:
        people: with 134 key points each.
        trusting: as the original, also trust the estimator alone where enough body points are visible. Some estimators
            see a body in an empty picture too.
    """
    visible = (people.scores[:, BODY] > confidence).sum(axis=1)
    return people.detected | (trusting & (visible >= LEAST_VISIBLE))


def widen(boxes: np.ndarray, before: People, confidence: float = CONFIDENCE) -> np.ndarray:
    """Widen boxes, (N, 4), to hold the body points that the same people had a frame before: no limb is cut off.

    Args:
        before: the people of the frame before, with 133 key points each; who overlaps most with a box is the same.
    """
    boxes = np.array(boxes, float)
    shared = overlaps(boxes, before.boxes)
    for box, share in zip(boxes, shared if before.detected and len(before) else (), strict=False):
        who = share.argmax()
        points = before.keypoints[who, COCO_BODY][before.scores[who, COCO_BODY] > confidence]
        if share[who] > LEAST_OVERLAP and len(points):
            low, high = points.min(axis=0), points.max(axis=0)
            margin = MARGIN * (high - low).max()
            box[:2], box[2:] = np.minimum(box[:2], low - margin), np.maximum(box[2:], high + margin)
    return boxes


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes: (N, 4), (M, 4) → (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(0, high - low), axis=-1)
    union = _areas(boxes)[:, None] + _areas(others)[None] - shared
    return shared / np.maximum(union, np.finfo(float).tiny)


def identify(frames: Sequence[People]) -> list[np.ndarray]:
    """Number the people of a video: the same person has the same number in all frames.

    Everybody is followed at once, so that nobody takes the number of another who is still there: first by overlap with
    where each is expected, then with where each was last seen, unless on the way to elsewhere, then, one frame later at
    most, by nearness at a like size. Who was not seen for `MEMORY` frames is forgotten. A picture in which the detector
    found nobody says nothing of where its person is: it goes to the person who was seen last, or is the first one.

    Returns:
        For each frame (N,) int numbers, from 0 in order of appearance.
    """
    tracks: list[_Track] = []
    numbers = []
    for frame, people in enumerate(frames):
        if not people.detected:
            latest = max(range(len(tracks)), key=lambda k: (tracks[k].frame, _areas(tracks[k].box[None])[0]), default=0)
            numbers.append(np.full(len(people), latest))
            continue
        boxes = np.asarray(people.boxes, float)
        number = np.full(len(boxes), -1)
        if tracks and len(boxes):
            seen = np.stack([track.box for track in tracks])
            expected = np.stack([track.expected(frame) for track in tracks])
            gaps = np.array([[frame - track.frame] for track in tracks])  # (tracks, 1)
            # Who moved on, or was away for long, is not whoever stands there now.
            stayed = (gaps == 1) | (overlaps(expected, seen).diagonal()[:, None] > LEAST_OVERLAP)
            known = gaps <= MEMORY
            _assign(number, np.where(known, overlaps(expected, boxes), 0), LEAST_OVERLAP)
            _assign(number, np.where(known & stayed, overlaps(seen, boxes), 0), LEAST_OVERLAP)
            _assign(number, np.where(gaps == 1, _nearness(seen, boxes), 0), 0)
        for k, box in enumerate(boxes):
            if number[k] < 0:
                number[k] = len(tracks)
                tracks.append(_Track(box, np.zeros(4), frame))
            else:
                tracks[number[k]].see(box, frame)
        numbers.append(number)
    return numbers


def choose(frames: Sequence[People], numbers: Sequence[np.ndarray], person: str) -> list[People]:
    """Keep the people of each frame that are to be drawn; a frame may hold none.

    Args:
        numbers: what `identify` made of them.
        person: `all`; `largest`, of each frame by itself; `track`, the one who fills most of the picture over the whole
            video; or a number from 0, counted from the left in the first frame that has so many.

    Raises:
        InputError: the choice is unknown, or no frame has so many people.
    """
    if person == "all":
        return list(frames)
    if person == "largest":
        return [people[np.argsort(-_areas(people.boxes), kind="stable")[:1]] for people in frames]
    followed = _most_prominent(frames, numbers) if person == "track" else _from_the_left(frames, numbers, person)
    return [people[np.flatnonzero(number == followed)[:1]] for people, number in zip(frames, numbers, strict=True)]


def _most_prominent(frames: Sequence[People], numbers: Sequence[np.ndarray]) -> int:
    areas = [_areas(people.boxes) * people.detected for people in frames]  # else the box is the whole picture
    return int(np.bincount(np.concatenate(numbers), np.concatenate(areas), minlength=1).argmax())


def _from_the_left(frames: Sequence[People], numbers: Sequence[np.ndarray], person: str) -> int:
    if not person.isdecimal():
        raise InputError(f"person {person!r} is unknown; give one of {', '.join(CHOICES)}, or a number from 0")
    for people, number in zip(frames, numbers, strict=True):
        if len(people) > int(person):
            return number[np.argsort(people.boxes[:, [0, 2]].sum(axis=1), kind="stable")[int(person)]]
    most = max(map(len, frames), default=0)
    raise InputError(f"person {person}: no frame has more than {most} people; give a number from 0 to {most - 1}")


def _assign(number: np.ndarray, affinity: np.ndarray, least: float) -> None:
    """Give tracks (rows) to the boxes (columns) without a number, the best pair first, each above `least`."""
    affinity = affinity.copy()
    affinity[number[number >= 0]] = -np.inf
    affinity[:, number >= 0] = -np.inf
    while affinity.size and affinity.max() > least:
        track, box = np.unravel_index(affinity.argmax(), affinity.shape)
        number[box] = track
        affinity[track], affinity[:, box] = -np.inf, -np.inf


def _nearness(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where centres coincide, 0 where they are too far apart or the sizes too unlike: (N, 4), (M, 4) → (N, M)."""
    centres, other_centres = ((b[:, :2] + b[:, 2:]) / 2 for b in (boxes, others))
    reach = LARGEST_STEP * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None]
    distance = np.linalg.norm(centres[:, None] - other_centres[None], axis=-1)
    growth = _areas(others)[None] / np.maximum(_areas(boxes)[:, None], np.finfo(float).tiny)
    alike = (growth < LARGEST_GROWTH) & (growth > 1 / LARGEST_GROWTH)
    return np.where(alike, 1 - distance / np.maximum(reach, np.finfo(float).tiny), 0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.asarray(boxes, float)[:, 2:] - np.asarray(boxes, float)[:, :2], axis=1)
