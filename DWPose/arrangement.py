"""From a recording to what is drawn: whom, smoothed, filled in, and aligned to the photo."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from DWPose.alignment import ALIGNMENTS, AxisFit, distance_to_photo, fit_axes
from DWPose.errors import InputError
from DWPose.keypoints import BODY, CONFIDENCE, People
from DWPose.limbs import fit_limbs
from DWPose.outliers import OUTLIERS, drop_outliers, find_outliers
from DWPose.recording import Drawn, Recording
from DWPose.smoothing import MISSING, fill_missing, jitter, one_euro
from DWPose.tracking import choose, identify, is_person

logger = logging.getLogger(__name__)


@dataclass
class Arrangement:
    """What to draw, and figures about it.

    Attributes:
        drawn: the aligned people of every frame.
        missing: (F,) bool, the frames in which nobody was found.
        outliers: (F,) int, how many body points of the people drawn were outliers, and so were filled.
        mean_confidence: of the body points of the people found, 0..1.
        jitter: of the followed person, before and after smoothing, body heights a frame².
        distances: (F,) of each aligned skeleton to the photo's, as a share of its height (`distance_to_photo`); None
            without alignment.
    """

    drawn: Drawn
    missing: np.ndarray
    outliers: np.ndarray
    mean_confidence: float
    jitter: tuple[float, float]
    distances: np.ndarray | None


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
        recording: raw key points of the photo and the video.
        alignment: `affine`, `affine_legacy`, `limb` or `none`.
        person: see `DWPose.tracking.choose`. `all` draws, as the original, whoever the estimator sees where the
            detector found nobody.
        missing: see `DWPose.smoothing.fill_missing`; of several people, `interpolate` holds.
        smooth: whether the One-Euro filter runs.
        outliers: `keep`, or `drop` to fill body points that jump out of their motion as `missing` says.
        size: width and height of the output, pixels; None for the photo's, or the driver's own without alignment.
        confidence: points with larger scores are visible.

    Raises:
        InputError: an unknown choice; nobody in the video, or, where it is aligned, in the photo.
    """
    choices = (("alignment", alignment, ALIGNMENTS), ("missing", missing, MISSING), ("outliers", outliers, OUTLIERS))
    for name, value, known in choices:
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown; give one of {', '.join(known)}")
    everybody = person == "all"
    found = [_people(people, confidence, everybody) for people in recording.video]
    if not any(map(len, found)):
        raise InputError("no person was found in any frame of the driver; give frames that show one in full view")
    numbers = identify(found)
    clean = smoothed = found
    if outliers == "drop":
        clean = smoothed = _along_tracks(
            found, numbers, lambda points, scores: _without_outliers(points, scores, missing, confidence)
        )
    if smooth:
        smoothed = _along_tracks(
            clean, numbers, lambda points, scores: (one_euro(points, scores, recording.fps, confidence), scores)
        )
    chosen = choose(smoothed, numbers, person)
    followed = choose(smoothed, numbers, "track") if everybody else chosen
    alone = [people for people in chosen if len(people) == 1] or [people for people in followed if len(people)]
    if not alone:
        raise InputError(f"person {person} is in no frame; give another")

    photo = None
    if alignment == "none":
        mapping: Callable = AxisFit(np.ones(2), np.zeros(2), np.empty(0, int))
        size = size or recording.video_size
    else:
        photo = photo_person(recording, everybody, confidence)
        mapping = _fit(alignment, photo, recording, alone, confidence)
        size = size or recording.photo_size

    absent = np.array([not len(people) for people in chosen])
    filled = _fill(chosen, absent, missing)
    drawn = _stack(filled, mapping, recording.video_size, size)
    raw = choose(clean, numbers, "track" if everybody else person)
    distances = None
    if photo is not None:
        distances = _distances(photo, recording, drawn, confidence)
    return Arrangement(
        drawn,
        absent,
        _changed(choose(found, numbers, person), choose(clean, numbers, person)),
        float(np.clip(np.concatenate([people.scores[:, BODY] for people in chosen]), 0, 1).mean()),
        (_jitter(raw, confidence), _jitter(followed, confidence)),
        distances,
    )


def _people(people: People, confidence: float, trusting: bool) -> People:
    """With 134 points each; those that are nobody left out."""
    people = people.openpose(confidence)
    kept = is_person(people, confidence, trusting)
    return People(people.boxes[kept], people.keypoints[kept], people.scores[kept], people.detected)


def photo_person(recording: Recording, first: bool = False, confidence: float = CONFIDENCE) -> People:
    """The photo's largest person, with 134 key points in 0..1 of the photo.

    Args:
        recording: of the photo.
        first: the detector's first instead, and where it found nobody whoever the estimator sees, as the original.
        confidence: points with larger scores are visible.

    Raises:
        InputError: there is no photo, or nobody in it.
    """
    remedy = "give a photo with the person in full view, or --alignment none"
    if recording.photo is None:
        raise InputError(f"there is no photo to align to; {remedy}")
    people = _people(recording.photo, confidence, first)
    if not len(people):
        raise InputError(f"no person was found in the photo, so nothing can be aligned to it; {remedy}")
    if not first:
        people = choose([people], [np.arange(len(people))], "largest")[0]
    return People(people.boxes, people.keypoints / recording.photo_size, people.scores, people.detected)


def _fit(alignment: str, photo: People, recording: Recording, alone: Sequence[People], confidence: float) -> Callable:
    (width, height), (photo_width, photo_height) = recording.video_size, recording.photo_size
    keypoints = np.concatenate([people.keypoints for people in alone]) / recording.video_size  # (F, 134, 2)
    scores = np.concatenate([people.scores for people in alone])
    target = photo.keypoints[0], photo.scores[0]
    if alignment == "limb":
        return fit_limbs(*target, recording.photo_size, keypoints, scores, recording.video_size, confidence)
    aspect_ratio = width / height / (photo_width / photo_height) if alignment == "affine" else 1.0
    fit = fit_axes(*target, keypoints, aspect_ratio, confidence)
    if fit.scale[1] < 0.1:
        logger.warning(
            "the driver's bodies are fitted at %.2f times their height, which hardly suits the photo: are "
            "both upright, and is the same part of the body in view? --alignment limb may do better",
            fit.scale[1],
        )
    return fit


def _along_tracks(frames: Sequence[People], numbers: Sequence[np.ndarray], change: Callable) -> list[People]:
    """Everybody's key points (F, K, 2) and scores (F, K) changed along their own track, scores 0 where it has a gap."""
    changed = [People(p.boxes, p.keypoints.copy(), p.scores.copy(), p.detected) for p in frames]
    places: dict[int, list[tuple[int, int]]] = {}
    for frame, number in enumerate(numbers):
        for k, who in enumerate(number):
            places.setdefault(who, []).append((frame, k))
    for track in places.values():
        start, end = track[0][0], track[-1][0] + 1
        shape = frames[track[0][0]].keypoints.shape[1:]
        keypoints, scores = np.zeros((end - start, *shape)), np.zeros((end - start, shape[0]))
        for frame, k in track:
            keypoints[frame - start], scores[frame - start] = frames[frame].keypoints[k], frames[frame].scores[k]
        keypoints, scores = change(keypoints, scores)
        for frame, k in track:
            changed[frame].keypoints[k], changed[frame].scores[k] = keypoints[frame - start], scores[frame - start]
    return changed


def _without_outliers(
    keypoints: np.ndarray, scores: np.ndarray, missing: str, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    return drop_outliers(keypoints, scores, find_outliers(keypoints, scores, confidence), missing)


def _changed(frames: Sequence[People], others: Sequence[People]) -> np.ndarray:
    """How many body points differ in each frame, (F,)."""
    return np.array(
        [
            ((a.keypoints != b.keypoints).any(axis=-1) | (a.scores != b.scores))[:, BODY].sum()
            for a, b in zip(frames, others, strict=True)
        ]
    )


def _fill(frames: Sequence[People], absent: np.ndarray, missing: str) -> list[People]:
    if not absent.any() or missing == "blank":
        return list(frames)
    if max(map(len, frames)) > 1:
        found = np.flatnonzero(~absent)
        nearest = found[np.maximum(np.searchsorted(found, np.arange(len(frames)), "right") - 1, 0)]
        return [frames[k] for k in nearest]
    shown = next(people for people in frames if len(people))
    keypoints, scores = fill_missing(
        np.stack([(people if len(people) else shown).keypoints[0] for people in frames]),
        np.stack([(people if len(people) else shown).scores[0] for people in frames]),
        ~absent,
        missing,
    )
    return [People(shown.boxes, keypoints[k : k + 1], scores[k : k + 1]) for k in range(len(frames))]


def _stack(frames: Sequence[People], mapping: Callable, video_size: tuple[int, int], size: tuple[int, int]) -> Drawn:
    scores = np.concatenate([people.scores for people in frames])
    return Drawn(
        np.repeat(np.arange(len(frames)), [len(people) for people in frames]),
        mapping(np.concatenate([people.keypoints for people in frames]) / video_size, scores),
        scores,
        size,
        len(frames),
    )


def _distances(photo: People, recording: Recording, drawn: Drawn, confidence: float) -> np.ndarray:
    """The nearest person's of each frame; NaN where nobody is comparable."""
    each = distance_to_photo(
        photo.keypoints[0], photo.scores[0], drawn.keypoints, drawn.scores, recording.photo_size, confidence
    )
    nearest = np.full(drawn.num_frames, np.nan)
    np.fmin.at(nearest, drawn.frames, each)
    return nearest


def _jitter(frames: Sequence[People], confidence: float) -> float:
    """Of one person a frame."""
    shown = next(people for people in frames if len(people))
    keypoints = np.stack([(people if len(people) else shown).keypoints[0] for people in frames])
    scores = np.stack([people.scores[0] if len(people) else np.zeros_like(shown.scores[0]) for people in frames])
    return jitter(keypoints, scores, confidence)
