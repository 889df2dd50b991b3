"""What the networks found in a photo and a video, and what was drawn from it, in one file: `keypoints.npz`."""

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from DWPose.errors import InputError
from DWPose.keypoints import NUM_KEYPOINTS, NUM_WHOLEBODY, People

KEYPOINTS_FILE = "keypoints.npz"
FORMAT = 1  # raised also when the same networks would be read in another way: older files are then made again
LARGEST_SIDE, FARTHEST = 2**16, 1e7  # pixels: of a picture, and of a key point's place
LARGEST_COUNT = 10**6  # frames, or people in one
LARGEST_CONTENT = 2**29  # bytes, all of it: key points of a hundred thousand people
_PARTS = ("boxes", "keypoints", "scores")
_NOBODY = People(np.empty((0, 4)), np.empty((0, NUM_WHOLEBODY, 2)), np.empty((0, NUM_WHOLEBODY), np.float32))
_MEMBERS = {"format", "sources", "fps", "photo_face", "video_counts", "num_frames", "drawn_frame"} | {
    f"{name}_{part}" for name in ("photo", "video", "drawn") for part in (*_PARTS, "detected", "size")
}


@dataclass
class Drawn:
    """The people that were drawn, aligned.

    Attributes:
        frames: (M,) the output frame of each, in order.
        keypoints: (M, 134, 2) in OpenPose's order, in 0..1 of the output's width and height.
        scores: (M, 134).
        size: width and height of the output, pixels.
        num_frames: of the output.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    size: tuple[int, int]
    num_frames: int

    def people(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Key points (N, 134, 2) and scores (N, 134) of the people in a frame."""
        rows = slice(*np.searchsorted(self.frames, (frame, frame + 1)))
        return self.keypoints[rows], self.scores[rows]


@dataclass
class Recording:
    """Raw key points, before any choice, smoothing or alignment.

    Attributes:
        photo: its people, 133 key points each; None where there is no photo.
        photo_size: its width and height, pixels.
        face: x and y of the centre of a face, in 0..1 of the photo: whose it is counts; None: the largest person.
        video: the people of each frame, 133 key points each.
        video_size: width and height of the frames, pixels.
        fps: frames a second.
        sources: what it was made from: names and hashes of networks, photo and video, and the part of the video.
        drawn: what was drawn from it, if anything.
    """

    photo: People | None
    photo_size: tuple[int, int] | None
    video: list[People]
    video_size: tuple[int, int]
    fps: float
    sources: dict = field(default_factory=dict)
    drawn: Drawn | None = None
    face: tuple[float, float] | None = None

    def belongs_to(self, photo: dict) -> bool:
        """Whether it was made for a photo that `describe_file` describes so."""
        return self.sources.get("photo") == photo

    def give_to(self, photo: dict, face: tuple[float, float] | None) -> None:
        """Make it one for a photo: what was found in another is forgotten."""
        if not self.belongs_to(photo):
            self.photo, self.sources["photo"] = None, photo
        self.face = face

    def save(self, path: str | Path) -> None:
        """Write to a .npz file, whole or not at all; its folder is made where missing."""
        path = Path(path)
        arrays: dict[str, Any] = {
            "format": FORMAT,
            "sources": json.dumps(self.sources),
            "fps": self.fps,
            "video_size": self.video_size,
            "video_counts": [len(people) for people in self.video],
            "video_detected": np.array([people.detected for people in self.video], bool),
            **_stack("video", self.video),
        }
        if self.photo is not None:
            arrays |= {"photo_size": self.photo_size, "photo_detected": self.photo.detected}
            arrays |= _stack("photo", [self.photo])
        if self.face is not None:
            arrays["photo_face"] = self.face
        if self.drawn is not None:
            arrays |= {
                "drawn_frame": self.drawn.frames.astype(np.int32),
                "drawn_keypoints": self.drawn.keypoints.astype(np.float32),
                "drawn_scores": self.drawn.scores.astype(np.float32),
                "drawn_size": self.drawn.size,
                "num_frames": self.drawn.num_frames,
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)  # if it were a link, the file would be written to where that points
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load_recording(path: str | Path) -> Recording:
    """Read what `Recording.save` wrote. Raises InputError: the file is missing, damaged, or something else."""
    path, remedy = Path(path), "give the keypoints.npz that skeleton_extraction.py wrote"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        return _read(_read_arrays(path))
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen types for what is damaged
        raise InputError(f"{path}: not a file of key points ({error}); {remedy}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The known members of the file, which together may not be larger than key points are; others are not touched."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz archive")
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        names = _MEMBERS & {name.removesuffix(".npy") for name in archive.namelist()}
        size = sum(archive.getinfo(f"{name}.npy").file_size for name in names)
        if size > LARGEST_CONTENT:
            raise ValueError(f"its arrays take {size} bytes")
        for name in names:
            content = io.BytesIO(archive.read(f"{name}.npy"))
            arrays[name] = np.lib.format.read_array(content, allow_pickle=False, max_header_size=10_000)
    if arrays["format"] != FORMAT:
        raise ValueError(f"its format is {arrays['format']} and this version reads {FORMAT}")
    return arrays


def _read(arrays: dict[str, np.ndarray]) -> Recording:
    photo = photo_size = drawn = face = None
    if "photo_size" in arrays:
        counts, detected = np.array([len(arrays["photo_boxes"])]), np.array([arrays["photo_detected"]])
        (photo,) = _unstack("photo", arrays, counts, detected)
        photo_size = _size(arrays["photo_size"])
    if "photo_face" in arrays:
        x, y = _shaped(arrays["photo_face"], ()).tolist()
        face = x, y
    if "drawn_frame" in arrays:
        frames, num_frames = arrays["drawn_frame"], int(arrays["num_frames"])
        keypoints = _shaped(arrays["drawn_keypoints"], (NUM_KEYPOINTS, 2))
        scores = _shaped(arrays["drawn_scores"], (NUM_KEYPOINTS,))
        if not frames.shape == (len(scores),) == (len(keypoints),):
            raise ValueError("its drawn parts are of different lengths")
        steps = np.diff(frames.astype(int), prepend=0, append=num_frames - 1 if len(frames) else num_frames)
        if num_frames > LARGEST_COUNT or frames.dtype.kind not in "iu" or (steps < 0).any():
            raise ValueError(f"it draws in frames that are not in order from 0 to {num_frames}")
        drawn = Drawn(frames, keypoints, scores, _size(arrays["drawn_size"]), num_frames)
    sources, fps = json.loads(str(arrays["sources"])), float(arrays["fps"])
    if not isinstance(sources, dict):
        raise ValueError("its sources are no JSON object")
    if not 0 < fps < np.inf:
        raise ValueError(f"its rate is {fps} frames a second")
    video = _unstack("video", arrays, arrays["video_counts"], arrays["video_detected"])
    return Recording(photo, photo_size, video, _size(arrays["video_size"]), fps, sources, drawn, face)


def _stack(name: str, frames: Iterable[People]) -> dict[str, np.ndarray]:
    """Each part of everybody, frame after frame."""
    return {
        f"{name}_{part}": np.concatenate([getattr(people, part) for people in (_NOBODY, *frames)]) for part in _PARTS
    }


def _unstack(name: str, arrays: dict[str, np.ndarray], counts: np.ndarray, detected: np.ndarray) -> list[People]:
    boxes, keypoints, scores = (_shaped(arrays[f"{name}_{part}"], getattr(_NOBODY, part).shape[1:]) for part in _PARTS)
    if (
        counts.ndim != 1
        or len(counts) > LARGEST_COUNT
        or counts.dtype.kind not in "iuf"
        or not ((counts >= 0) & (counts <= LARGEST_COUNT)).all()
    ):
        raise ValueError(f"its {name} parts are of no possible lengths")
    counts = counts.astype(int)
    if not len(boxes) == len(keypoints) == len(scores) == sum(counts):
        raise ValueError(f"its {name} parts are of different lengths")
    rows = [slice(end - count, end) for end, count in zip(np.cumsum(counts), counts, strict=True)]
    return [People(boxes[k], keypoints[k], scores[k], bool(found)) for k, found in zip(rows, detected, strict=True)]


def _shaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.dtype.kind not in "fiu" or array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        raise ValueError(f"an array of {array.shape} where (N, {', '.join(map(str, shape))}) numbers were due")
    if not (np.abs(array) <= FARTHEST).all():  # nor NaN
        raise ValueError("numbers in it that are not finite, or beyond any picture")
    return array


def _size(array: np.ndarray) -> tuple[int, int]:
    width, height = (float(side) for side in array)
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ValueError(f"a size of {width:g}×{height:g}")
    return int(width), int(height)
