"""What drives a clip: a video, a folder of its frames, a folder of skeletons, or recorded key points."""

import logging
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animation.errors import InputError
from animation.media.images import FrameFolder
from animation.media.video import FOLDER_FPS, LARGEST_FPS, LONGEST, FolderFrames, VideoFrames, check_part
from DWPose.recording import KEYPOINTS_FILE, Recording, load_recording

logger = logging.getLogger(__name__)

IN_WORDS = {
    "video": "a video file",
    "frames": "a folder of frames",
    "poses": "a folder of skeletons",
    "keypoints": "recorded key points",
}
KINDS = tuple(IN_WORDS)
WHAT_TO_GIVE = "give a video file, a folder of frames or skeletons, or a keypoints.npz"
TOO_FAST = 60.0  # frames a second that are taken of a video whose own rate is above `LARGEST_FPS`
SAMPLES = 8  # frames of a folder that are looked at
BLACK = 12  # of 255: what JPEG leaves of black
BLACK_SHARE, PURE_SHARE = 0.6, 0.5  # of a skeleton's pixels are black; and of the others of a pure colour, or grey


@dataclass
class Driver:
    """A part of a driver at the rate of the clip.

    Attributes:
        kind: of `KINDS`.
        path: the file or the folder.
        frames: the pictures, or the skeletons, of the part; None of key points.
        recording: of key points, those of the part.
        fps: frames a second.
        start: seconds from the driver's beginning to the part's.
        end: seconds to where the part ends; None: with the driver.
        taken_fps: the rate that is asked of `VideoFrames` or `FolderFrames`; None: the driver's own.
    """

    kind: str
    path: Path
    frames: VideoFrames | FolderFrames | None
    recording: Recording | None
    fps: float
    start: float
    end: float | None
    taken_fps: float | None = None

    @property
    def estimated_length(self) -> int:
        """About how many frames the part has; exact unless it is a video's."""
        return (len(self.recording.video) if self.frames is None else self.frames.estimated_length) or 1

    def describe(self) -> dict:
        """What tells this part of this driver from another, JSON values."""
        if self.frames is not None:
            return {"kind": self.kind, **self.frames.describe()}
        status = self.path.stat()
        part = [self.start, self.end, self.fps, len(self.recording.video)]
        return {"kind": self.kind, "bytes": status.st_size, "modified_ns": status.st_mtime_ns, "part": part}


def open_driver(
    path: str | Path,
    kind: str | None = None,
    start: float | None = None,
    end: float | None = None,
    max_seconds: float | None = None,
    fps: float | None = None,
) -> Driver:
    """Find out what a driver is, say so in the log, and open a part of it.

    Args:
        path: a file or a folder.
        kind: of `KINDS`; None: found out.
        start, end: seconds from its beginning; None for all of it.
        max_seconds: the part is at most so long.
        fps: of a video and of key points, the rate to take it at; of a folder, the rate it was taken at; None: the
            driver's own, or 30 of a folder.

    Raises:
        InputError: nothing there, nothing that can be read, no frame in the part, or a number out of its range.
    """
    path = Path(path)
    if max_seconds is not None and not 0 < max_seconds <= LONGEST:
        raise InputError(f"--max_seconds {max_seconds:g} is out of range; give more than 0, at most {LONGEST}")
    check_part(start, end, 1, fps)
    begin = start or 0.0
    if max_seconds is not None:
        end = min(end or LONGEST, begin + max_seconds)
    found = recognise(path)
    kind = kind or found
    if kind == found:
        logger.info(f"{path}: {IN_WORDS[found]}")
    else:
        logger.info(f"{path}: looks like {IN_WORDS[found]}, and is taken as {IN_WORDS[kind]}, as asked for")
    if kind != "keypoints" and path.is_dir() != (kind in ("frames", "poses")):
        what = "a folder" if path.is_dir() else "a file"
        raise InputError(f"{path}: cannot be {IN_WORDS[kind]}, being {what}; leave --driver_kind out")
    if kind == "keypoints":
        file = path / KEYPOINTS_FILE if path.is_dir() else path
        recording = _part_of(load_recording(file), file, begin, end, fps)
        return Driver(kind, file, None, recording, recording.fps, begin, end)
    if kind != "video":
        folder = FolderFrames(path, start, end, 1, fps)
        if fps is None:
            logger.info(f"{path}: taken as {FOLDER_FPS:g} frames a second; --fps says otherwise")
        return Driver(kind, path, folder, None, folder.fps, begin, end, fps)
    video = VideoFrames(path, start, end, 1, fps)
    taken = fps
    if fps is None and not video.has_even_rate():
        taken = min(video.fps, TOO_FAST)
        logger.info(f"{path}: its frames come at uneven times: {taken:.4g} a second are taken, --fps takes others")
    elif video.fps > LARGEST_FPS:
        taken = TOO_FAST
        logger.warning(f"{path}: {video.fps:g} frames a second; {taken:g} of them are taken, --fps takes others")
    if taken != fps:
        video = VideoFrames(path, start, end, 1, taken)
    return Driver(kind, path, video, None, video.fps, begin, end, taken)


def recognise(path: Path) -> str:
    """What a path holds, of `KINDS`.

    Raises:
        InputError: nothing is there, or a folder without frames.
    """
    if path.is_dir():
        if not any(path.glob("*.png")) and not any(path.glob("*.jp*g")) and (path / KEYPOINTS_FILE).is_file():
            return "keypoints"
        return "poses" if are_skeletons(path) else "frames"
    if not path.is_file():
        raise InputError(f"{path}: no such driver; {WHAT_TO_GIVE}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; {WHAT_TO_GIVE}")
    return "keypoints" if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path) else "video"


def are_skeletons(folder: Path) -> bool:
    """Whether a folder's pictures are skeletons: mostly black, and what is not is of pure colours, or grey.

    Raises:
        InputError: as `FrameFolder`.
    """
    frames, told = FrameFolder(folder), False
    for place in np.unique(np.linspace(0, len(frames) - 1, min(SAMPLES, len(frames))).round().astype(int)):
        pixels = np.asarray(frames[int(place)]).reshape(-1, 3).astype(int)
        brightest, darkest = pixels.max(axis=1), pixels.min(axis=1)
        lit = brightest > BLACK
        pure = (darkest <= BLACK + brightest // 4) | (brightest - darkest <= BLACK)
        if lit.mean() > 1 - BLACK_SHARE or (lit.any() and pure[lit].mean() < PURE_SHARE):
            return False
        told = told or bool(lit.any())
    return told


def pick(count: int, rate: float, start: float, end: float | None, fps: float | None) -> list[int]:
    """The numbers of the frames that show a part of `count` frames of one rate at another, each when it is due."""
    last, fps = min(count / rate, math.inf if end is None else end), fps or rate
    ticks = max(0, math.ceil((last - start) * fps - 1e-4))
    numbers = [int((start + k / fps) * rate + 1e-4) for k in range(ticks)]
    return [number for number in numbers if number < count]


def _part_of(recording: Recording, path: Path, start: float, end: float | None, fps: float | None) -> Recording:
    """A part of recorded key points at a rate."""
    if not recording.video:
        raise InputError(f"{path}: holds no frame; run skeleton_extraction.py again")
    if not 0 < recording.fps <= LARGEST_FPS:
        raise InputError(f"{path}: its rate is {recording.fps:g} frames a second; run skeleton_extraction.py again")
    numbers = pick(len(recording.video), recording.fps, start, end, fps)
    if not numbers:
        seconds = len(recording.video) / recording.fps
        raise InputError(f"{path}: no frame in the part that is wanted; it lasts {seconds:.2f} s")
    recording.video = [recording.video[number] for number in numbers]
    recording.fps, recording.drawn = fps or recording.fps, None
    return recording
