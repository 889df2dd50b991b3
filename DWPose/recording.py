"""What the networks found in a photo and a video, and what was drawn from it, in one file: `keypoints.npz`."""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from DWPose.errors import InputError
from DWPose.keypoints import NUM_KEYPOINTS, NUM_WHOLEBODY, People

KEYPOINTS_FILE = "keypoints.npz"
FORMAT = 1  # raised also when the same networks would be read in another way: older files are then made again
LARGEST_SIDE, FARTHEST = 2**16, 1e7  # pixels: of a picture, and of a key point's place
LARGEST_COUNT = 10**7  # frames, or people in one
LARGEST_MEMBER = 2**30  # bytes: key points of half a million people
_PARTS = ("boxes", "keypoints", "scores", "detected", "size")
_MEMBERS = {"format", "sources", "fps", "video_counts", "num_frames", "drawn_frame"} | {
    f"{name}_{part}" for name in ("photo", "video", "drawn") for part in _PARTS
}
_DAMAGE: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError)
_DAMAGE += (OverflowError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)  # RuntimeError: also recursion


@dataclass
class Drawn:
    """The people that were drawn, aligned.

    Attributes:
        frames: (M,) the output frame of each.
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


@dataclass
class Recording:
    """Raw key points, before any choice, smoothing or alignment.

    Attributes:
        photo: its people, 133 key points each; None where there is no photo.
        photo_size: its width and height, pixels.
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

    def save(self, path: str | Path) -> None:
        """Write to a .npz file, whole or not at all."""
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
        if self.drawn is not None:
            arrays |= {
                "drawn_frame": self.drawn.frames.astype(np.int32),
                "drawn_keypoints": self.drawn.keypoints.astype(np.float32),
                "drawn_scores": self.drawn.scores.astype(np.float32),
                "drawn_size": self.drawn.size,
                "num_frames": self.drawn.num_frames,
            }
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load_recording(path: str | Path) -> Recording:
    """Read what `Recording.save` wrote.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the keypoints.npz that skeleton_extraction.py wrote")
    try:
        return _read(_read_arrays(path))
    except _DAMAGE as error:
        raise InputError(
            f"{path}: not a file of key points ({error}); give the keypoints.npz that skeleton_extraction.py wrote"
        ) from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The known members of the file, none of which may be larger than key points are; others are not touched."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz archive")
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in _MEMBERS & {name.removesuffix(".npy") for name in archive.namelist()}:
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > LARGEST_MEMBER:
                raise ValueError(f"its {name} takes {member.file_size} bytes")
            content = io.BytesIO(archive.read(member))
            arrays[name] = np.lib.format.read_array(content, allow_pickle=False, max_header_size=10_000)
    if arrays["format"] != FORMAT:
        raise ValueError(f"its format is {arrays['format']} and this version reads {FORMAT}")
    return arrays


def _read(arrays: dict[str, np.ndarray]) -> Recording:
    counts = arrays["video_counts"]
    video = _unstack("video", arrays, counts, arrays["video_detected"])
    photo = photo_size = drawn = None
    if "photo_size" in arrays:
        count = len(arrays["photo_boxes"])
        photo = _unstack("photo", arrays, np.array([count]), np.array([arrays["photo_detected"]]))[0]
        photo_size = _size(arrays["photo_size"])
    if "drawn_frame" in arrays:
        frames, people = arrays["drawn_frame"], len(arrays["drawn_keypoints"])
        num_frames = int(arrays["num_frames"])
        if not 0 <= num_frames <= LARGEST_COUNT:
            raise ValueError(f"it draws {num_frames} frames")
        if not len(frames) == len(arrays["drawn_scores"]) == people:
            raise ValueError("its drawn parts are of different lengths")
        if frames.dtype.kind not in "iu" or (np.diff(frames.astype(int)) < 0).any():
            raise ValueError("its drawn frames are not in order")
        if people and not 0 <= frames.min() <= frames.max() < num_frames:
            raise ValueError(f"it draws in frames {frames.min()} to {frames.max()} of {num_frames}")
        drawn = Drawn(
            frames,
            _shaped(arrays["drawn_keypoints"], (NUM_KEYPOINTS, 2)),
            _shaped(arrays["drawn_scores"], (NUM_KEYPOINTS,)),
            _size(arrays["drawn_size"]),
            num_frames,
        )
    sources = json.loads(str(arrays["sources"]))
    if not isinstance(sources, dict):
        raise ValueError("its sources are no JSON object")
    fps = float(arrays["fps"])
    if not 0 < fps < np.inf:
        raise ValueError(f"its rate is {fps} frames a second")
    return Recording(photo, photo_size, video, _size(arrays["video_size"]), fps, sources, drawn)


def _stack(name: str, frames: list[People]) -> dict[str, np.ndarray]:
    def all_of(part: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """One part of everybody, frame after frame."""
        return np.concatenate([np.empty((0, *shape), dtype), *(getattr(people, part) for people in frames)])

    return {
        f"{name}_boxes": all_of("boxes", (4,), np.float64),
        f"{name}_keypoints": all_of("keypoints", (NUM_WHOLEBODY, 2), np.float64),
        f"{name}_scores": all_of("scores", (NUM_WHOLEBODY,), np.float32),
    }


def _unstack(name: str, arrays: dict[str, np.ndarray], counts: np.ndarray, detected: np.ndarray) -> list[People]:
    boxes = _shaped(arrays[f"{name}_boxes"], (4,))
    keypoints = _shaped(arrays[f"{name}_keypoints"], (NUM_WHOLEBODY, 2))
    scores = _shaped(arrays[f"{name}_scores"], (NUM_WHOLEBODY,))
    if counts.ndim != 1 or counts.dtype.kind not in "iuf" or not ((counts >= 0) & (counts <= LARGEST_COUNT)).all():
        raise ValueError(f"its {name} parts are of no possible lengths")
    counts = counts.astype(int)
    if not len(boxes) == len(keypoints) == len(scores) == sum(counts):
        raise ValueError(f"its {name} parts are of different lengths")
    ends = np.cumsum(counts)
    return [
        People(boxes[end - count : end], keypoints[end - count : end], scores[end - count : end], bool(found))
        for end, count, found in zip(ends, counts, detected, strict=True)
    ]


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
