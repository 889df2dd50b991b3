"""From a recording to what is drawn: whom, smoothed, filled in, and aligned to the photo."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from DWPose.alignment import ALIGNMENTS, AxisFit, distance_to_photo, fit_axes, leaves_photo
from DWPose.errors import InputError
from DWPose.keypoints import BODY, CONFIDENCE, NOSE, People
from DWPose.limbs import LimbFit, fit_limbs
from DWPose.outliers import OUTLIERS, drop_outliers, find_outliers
from DWPose.recording import Drawn, Recording
from DWPose.smoothing import MISSING, fill_missing, jitter, last_present, one_euro
from DWPose.tracking import choose, identify, is_person

logger = logging.getLogger(__name__)

Stack = tuple[np.ndarray, np.ndarray, np.ndarray]  # of everybody: frame (M,), key points (M, K, 2), scores (M, K)


@dataclass
class Arrangement:
    """What to draw, and figures about it.

    Attributes:
        drawn: the aligned people of every frame.
        missing: (F,) bool, the frames in which nobody was found.
        outliers: (F,) int, how many body points of the people drawn were outliers, and so were filled.
        mean_confidence: of the body points of the people found, 0..1.
        jitter: of the followed person, before and after smoothing, body heights a frame².
        distances: (F,) of each frame's nearest aligned skeleton to the photo's, as a share of its height, NaN where
            none is comparable (`distance_to_photo`); None without alignment.
        cut: (F,) bool, the frames in which a body point of the followed person that the photo shows lies outside of it
            (`leaves_photo`); none with everybody drawn, and without alignment.
    """

    drawn: Drawn
    missing: np.ndarray
    outliers: np.ndarray
    mean_confidence: float
    jitter: tuple[float, float]
    distances: np.ndarray | None
    cut: np.ndarray


def arrange(
    recording: Recording,
    alignment: str = "affine",
    person: str = "track",
    missing: str = "interpolate",
    smooth: bool = False,
    outliers: str = "keep",
    size: tuple[int, int] | None = None,
    confidence: float = CONFIDENCE,
) -> Arrangement:
    """Choose, smooth, fill in and align, in this order.

    Args:
        alignment: `affine`, `affine_legacy`, `limb` or `none`.
        person: see `DWPose.tracking.choose`. `all` draws, as the original, whoever the estimator sees where the
            detector found nobody.
        missing: see `DWPose.smoothing.fill_missing`; of several people, `interpolate` holds.
        smooth: whether the One-Euro filter runs.
        outliers: `keep`, or `drop` to fill body points that jump out of their motion as `missing` says.
        size: width and height of the output, pixels; None for the photo's, or the driver's own without alignment.

    Raises:
        InputError: an unknown choice; nobody in the video, or, where it is aligned, in the photo.
    """
    choices = (("alignment", alignment, ALIGNMENTS), ("missing", missing, MISSING), ("outliers", outliers, OUTLIERS))
    for name, value, known in choices:
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; give one of {', '.join(known)}")

    def fill_outliers(keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return drop_outliers(keypoints, scores, find_outliers(keypoints, scores, confidence), missing)

    def filter_trembling(keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return one_euro(keypoints, scores, recording.fps, confidence), scores

    def trembling(frames: Sequence[People]) -> float:
        return jitter(*_unstack(_stack(frames), len(frames)), confidence)

    everybody = person == "all"
    found = [_people(people, confidence, everybody) for people in recording.video]
    if not any(map(len, found)):
        raise InputError("no person was found in any frame of the driver; give frames that show one in full view")
    numbers = identify(found)
    clean = _along_tracks(found, numbers, fill_outliers) if outliers == "drop" else found
    smoothed = _along_tracks(clean, numbers, filter_trembling) if smooth else clean
    chosen = choose(smoothed, numbers, person)
    one = "track" if everybody else person
    followed = choose(smoothed, numbers, one)
    alone = [people for people in chosen if len(people) == 1] or [people for people in followed if len(people)]
    if not alone:
        raise InputError(f"person {person} is in no frame; give another")

    absent = np.array([not len(people) for people in chosen])
    frames, keypoints, scores = _fill(chosen, absent, missing)
    keypoints, own_size, distances = keypoints / recording.video_size, recording.video_size, None
    cut = np.zeros(len(chosen), bool)
    if alignment != "none":
        photo = photo_person(recording, everybody, confidence)
        assert recording.photo_size is not None
        own_size = recording.photo_size
        keypoints = _fit(alignment, photo, own_size, recording.video_size, alone, confidence)(keypoints, scores)
        target = photo.keypoints[0], photo.scores[0]
        distances = np.full(len(chosen), np.nan)
        np.fmin.at(distances, frames, distance_to_photo(*target, keypoints, scores, own_size, confidence))
        if not everybody:
            cut[frames] = leaves_photo(photo.scores[0], keypoints, scores, confidence)
    return Arrangement(
        Drawn(frames, keypoints, scores, size or own_size, len(chosen)),
        absent,
        _count_changed(choose(found, numbers, person), choose(clean, numbers, person)),
        float(np.clip(_stack(chosen)[2][:, BODY], 0, 1).mean()),
        (trembling(choose(clean, numbers, one)), trembling(followed)),
        distances,
        cut,
    )


def photo_person(recording: Recording, first: bool = False, confidence: float = CONFIDENCE) -> People:
    """The photo's person who counts, with 134 key points in 0..1 of the photo: the recording's face's, or the largest.

    Args:
        first: all of them, of whom the detector's first counts, and where it found nobody whoever the estimator sees,
            as the original.

    Raises:
        InputError: there is no photo, or nobody in it.
    """
    remedy = "give a photo with the person in full view, or --alignment none"
    if recording.photo is None or recording.photo_size is None:
        raise InputError(f"there is no photo to align to; {remedy}")
    people = _people(recording.photo, confidence, first)
    if not len(people):
        raise InputError(f"no person was found in the photo, so nothing can be aligned to it; {remedy}")
    if recording.face is None and not first:
        people = choose([people], [np.arange(len(people))], "largest")[0]
    elif recording.face is not None and not first:
        away = np.linalg.norm(people.keypoints[:, NOSE] / recording.photo_size - recording.face, axis=1)
        people = people[away.argsort(kind="stable")[:1]]
        (low, high), face = people.boxes[0].reshape(2, 2), np.multiply(recording.face, recording.photo_size)
        if (face < low).any() or (face > high).any():
            logger.warning("nobody was found around the face that is taken of the photo; the nearest person counts")
    return People(people.boxes, people.keypoints / recording.photo_size, people.scores, people.detected)


def _people(people: People, confidence: float, trusting: bool) -> People:
    """With 134 points each; those that are nobody left out."""
    people = people.openpose(confidence)
    return people[is_person(people, confidence, trusting)]


def _fit(
    alignment: str,
    photo: People,
    photo_size: tuple[int, int],
    size: tuple[int, int],
    alone: Sequence[People],
    confidence: float,
) -> AxisFit | LimbFit:
    """Of the frames in which one person is alone."""
    _, keypoints, scores = _stack(alone)
    target = photo.keypoints[0], photo.scores[0]
    if alignment == "limb":
        return fit_limbs(*target, photo_size, keypoints / size, scores, size, confidence)
    aspect_ratio = size[0] / size[1] / (photo_size[0] / photo_size[1]) if alignment == "affine" else 1.0
    fit = fit_axes(*target, keypoints / size, aspect_ratio, confidence)
    if fit.scale[1] < 0.1:
        logger.warning(
            f"the driver's bodies are fitted at {fit.scale[1]:.2f} times their height, which hardly suits the photo: "
            "are both upright, and is the same part of the body in view? --alignment limb may do better"
        )
    return fit


def _stack(frames: Sequence[People]) -> Stack:
    numbers = np.repeat(np.arange(len(frames)), [len(people) for people in frames])
    keypoints, scores = ([getattr(people, part) for people in frames] for part in ("keypoints", "scores"))
    return numbers, np.concatenate(keypoints), np.concatenate(scores)


def _unstack(stack: Stack, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One person's key points and scores in each of `count` frames, 0 where there are none."""
    frames, keypoints, scores = stack
    path, path_scores = np.zeros((count, *keypoints.shape[1:])), np.zeros((count, *scores.shape[1:]))
    path[frames], path_scores[frames] = keypoints, scores
    return path, path_scores


def _along_tracks(frames: Sequence[People], numbers: Sequence[np.ndarray], change: Callable) -> list[People]:
    """Everybody's key points (F, K, 2) and scores (F, K) changed along their own track, scores 0 where it has a gap."""
    frame, keypoints, scores = _stack(frames)
    owners = np.concatenate(numbers)
    for owner in np.unique(owners):
        rows = np.flatnonzero(owners == owner)
        places = frame[rows] - frame[rows[0]]
        path, path_scores = change(*_unstack((places, keypoints[rows], scores[rows]), places[-1] + 1))
        keypoints[rows], scores[rows] = path[places], path_scores[places]
    ends = np.cumsum([len(people) for people in frames])[:-1]
    parts = zip(frames, np.split(keypoints, ends), np.split(scores, ends), strict=True)
    return [People(people.boxes, points, values, people.detected) for people, points, values in parts]


def _fill(frames: Sequence[People], absent: np.ndarray, missing: str) -> Stack:
    if not absent.any() or missing == "blank":
        return _stack(frames)
    if max(map(len, frames)) > 1:
        return _stack([frames[k] for k in last_present(~absent)])
    return np.arange(len(frames)), *fill_missing(*_unstack(_stack(frames), len(frames)), ~absent, missing)


def _count_changed(frames: Sequence[People], others: Sequence[People]) -> np.ndarray:
    """How many body points differ in each frame, (F,)."""
    (numbers, keypoints, scores), (_, other_keypoints, other_scores) = _stack(frames), _stack(others)
    changed = ((keypoints != other_keypoints).any(axis=-1) | (scores != other_scores))[:, BODY].sum(axis=1)
    return np.bincount(numbers, changed, len(frames)).astype(int)
