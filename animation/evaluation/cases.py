"""What is compared with what: cases of generated frames, ground truth, photo and driver, found in folders.

    TRUTH/case-1/reference.png            the photo
                 truth/     truth.mp4     the ground truth: numbered frames or a video
                 driver/    driver.mp4    the frames whose movement was followed
                 poses/                   the skeletons, and keypoints.npz that they were drawn from
    RESULTS/case-1/                       frames in animated_images/ or right there, or animation.mp4

All but the results is optional: what cannot be measured without it is said. Imports no torch.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from animation.cli import listed
from animation.errors import InputError
from animation.media.images import IMAGE_SUFFIXES, FrameFolder, load_photo
from animation.media.video import VideoFrames
from animation.media.writing import FRAMES_FOLDER
from DWPose.recording import KEYPOINTS_FILE, load_recording

logger = logging.getLogger(__name__)

PHOTO_STEM, VIDEO_FILE = "reference", "animation.mp4"
PHOTOS = [f"{PHOTO_STEM}{suffix}" for suffix in IMAGE_SUFFIXES]


class VideoClip:
    """The frames of a video file as RGB images, as `FrameFolder` has them; fast in rising order. Raises InputError."""

    def __init__(self, path: Path, max_frames: int | None = None):
        self.paths, self._video = [path], VideoFrames(path)
        self.sizes = {self._video.size}  # (width, height), pixels
        self._length = sum(1 for _ in itertools.islice(self._video, max_frames))
        self._number = self._length  # of the frame at hand

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict:
        """Without the place where reading is, which another process does not share."""
        return {"paths": self.paths, "sizes": self.sizes, "_video": self._video, "_length": self._length}

    def __getitem__(self, index: int) -> Image.Image:
        index = range(self._length)[index]
        if index < self._number:
            self._number, self._frames = -1, iter(self._video)
        while self._number < index:
            self._frame, self._number = next(self._frames), self._number + 1
        return Image.fromarray(self._frame)


Frames: TypeAlias = FrameFolder | VideoClip


@dataclass(kw_only=True)
class Case:
    """One animation and what it is compared with, all of the same number of frames.

    `keypoints` and `scores`, (F, 134, 2) in 0..1 of the frame and (F, 134), are what the skeletons were drawn from.
    """

    name: str
    result: Frames
    truth: Frames | None = None
    driver: Frames | None = None
    poses: Frames | None = None
    photo: Image.Image | None = None
    keypoints: np.ndarray | None = None
    scores: np.ndarray | None = None
    fps: float | None = None  # of the results; None: unknown

    def __len__(self) -> int:
        return len(self.result)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the generated frames, pixels."""
        return self.result[0].size


def _has_frames(folder: Path) -> bool:
    return folder.is_dir() and any(
        path.suffix.lower() in IMAGE_SUFFIXES and path.stem != PHOTO_STEM and any(map(str.isdigit, path.stem))
        for path in folder.iterdir()
    )


def _open_first(candidates: Sequence[Path], max_frames: int | None) -> Frames | None:
    """The first of the candidates that is a folder with numbered frames or a video. Raises InputError."""
    for path in candidates:
        if _has_frames(path):
            return FrameFolder(path, max_frames)
        if path.is_file():
            return VideoClip(path, max_frames)
    return None


def _is_case(path: Path) -> bool:
    """Whether a path of ground truth is one case, not a folder of cases, beside which a driver may lie."""
    files, folders = ["truth.mp4", *PHOTOS], ["truth", "driver", "poses"]
    if not path.is_dir() or any((path / name).is_file() for name in files) or _has_frames(path):
        return True
    if any((path / name).is_dir() for name in folders):
        return True
    return (path / "driver.mp4").is_file() and not any(part.is_dir() and _is_case(part) for part in path.iterdir())


def find_cases(
    results: str | Path, truth: str | Path, names: Sequence[str] = (), max_frames: int | None = None
) -> list[Case]:
    """Find the cases of two folders, in the order of their names, and check that their parts fit together.

    Both hold a folder a case, of the same names, of which only some may be asked for; or both are one case. Without
    `max_frames` a case's parts must have equally many frames. Raises InputError: nothing to compare, results are
    missing, numbers of frames differ, or a file cannot be read.
    """
    results, truth = Path(results), Path(truth)
    for flag, path in (("--results", results), ("--truth", truth)):
        if not path.exists():
            raise InputError(f"{flag} {path}: no such folder; give the folder of cases, or of one case")
    if _is_case(truth):
        if names:
            raise InputError(f"--truth {truth}: one case, not a folder of cases; leave out --cases")
        return [_read_case(truth.resolve().name if truth.is_dir() else truth.stem, results, truth, max_frames)]
    folders = {path.name: path for path in sorted(truth.iterdir(), key=_natural) if path.is_dir() and _is_case(path)}
    if not folders:
        example = "a case is a folder such as case-1 with reference.png or truth/ in it"
        raise InputError(f"--truth {truth}: no cases there; {example}")
    unknown = [name for name in names if name not in folders]
    if unknown:
        raise InputError(f"--cases {', '.join(unknown)}: not in {truth}; it has {listed(list(folders), 3)}")
    wanted = list(names) or list(folders)
    missing = [name for name in wanted if not (results / name).exists()]
    if missing:
        there = [path.name for path in sorted(results.glob("[!.]*"), key=_natural)]
        raise InputError(
            f"--results {results}: the results of {len(missing)} of {len(wanted)} cases are not there "
            f"({listed(missing, 3)}); it has {listed(there, 3) or 'nothing'}. Results are found by their case's name: "
            f"animate {truth / missing[0]} into {results / missing[0]}, or name those to compare with --cases"
        )
    return [_read_case(name, results / name, folders[name], max_frames) for name in wanted]


def _natural(path: Path) -> tuple:
    """A key that puts case-2 before case-10."""
    digits = "".join(filter(str.isdigit, path.name))
    return path.name.rstrip("0123456789"), int(digits or 0), path.name


def _read_case(name: str, result: Path, truth: Path, max_frames: int | None) -> Case:
    """One case from a path of generated frames and a path of what they are compared with. Raises InputError."""
    frames = _open_first([result / FRAMES_FOLDER, result, result / VIDEO_FILE], max_frames)
    if frames is None:
        raise InputError(f"{result}: no generated frames there; give a folder of numbered frames or {VIDEO_FILE}")
    if len(frames.sizes) > 1:
        sizes = _sizes(frames.sizes)
        raise InputError(f"{result}: frames of {len(frames.sizes)} sizes ({sizes}); make them again, all of one size")
    case = Case(
        name=name,
        result=frames,
        truth=_open_first([truth / "truth", truth / "truth.mp4", truth], max_frames),
        driver=_open_first([truth / "driver", truth / "driver.mp4"], max_frames),
        poses=_open_first([truth / "poses", truth / "poses.mp4"], max_frames),
        fps=_rate(result),
    )
    for part, others in (("truth", case.truth), ("driver", case.driver)):
        if others is not None and len(others) != len(case):
            raise InputError(
                f"case {name}: {len(case)} generated frames, but {len(others)} of the {part}; make them equally many, "
                f"or compare the first with --max_frames {min(len(case), len(others))}"
            )
    if case.truth is not None and case.truth.sizes != frames.sizes:
        logger.info(
            f"case {name}: the ground truth of {_sizes(case.truth.sizes)} is resized to the generated frames' "
            f"{_sizes(frames.sizes)} (width × height)"
        )
    if case.poses is not None and len(case.poses) < len(case):
        case.poses = None  # shown only
    photo = next((truth / file for file in PHOTOS if (truth / file).is_file()), None)
    case.photo = None if photo is None else load_photo(photo)
    if (truth / "poses" / KEYPOINTS_FILE).is_file():
        case.keypoints, case.scores = _read_targets(truth / "poses" / KEYPOINTS_FILE, len(case))
    return case


def _rate(result: Path) -> float | None:
    """Frames a second of results, where a video says so."""
    try:
        return VideoFrames(result if result.is_file() else result / VIDEO_FILE).fps
    except InputError:
        return None


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width}×{height}" for width, height in sorted(sizes))


def _read_targets(path: Path, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The key points that the first frames' skeletons were drawn from, and their scores, as in `Case`.

    Of several people in a frame the first is taken; a frame without people has scores of 0. Raises InputError: the file
    is damaged, nothing was drawn from it, or it has fewer frames.
    """
    drawn = load_recording(path).drawn
    if drawn is None or drawn.num_frames < num_frames:
        frames = 0 if drawn is None else drawn.num_frames
        remedy = "extract them again, or remove the file"
        raise InputError(f"{path}: skeletons of {frames} frames for {num_frames} generated ones; {remedy}")
    keypoints = np.zeros((num_frames, *drawn.keypoints.shape[1:]))
    scores = np.zeros(keypoints.shape[:2])
    for i in reversed(np.flatnonzero(drawn.frames < num_frames)):  # so that a frame's first person stays
        keypoints[drawn.frames[i]], scores[drawn.frames[i]] = drawn.keypoints[i], drawn.scores[i]
    return keypoints, scores


@dataclass(kw_only=True)
class Chunk:
    """Some neighbouring frames of a case, (n, H, W, 3) uint8 RGB; the driver alone has a size of its own."""

    case: Case
    start: int
    result: np.ndarray
    truth: np.ndarray | None
    driver: np.ndarray | None


def chunks(case: Case, length: int) -> Iterator[Chunk]:
    """Read a case, `length` frames at a time. Raises InputError: a file cannot be read."""
    size = case.size
    for start in range(0, len(case), length):
        part = range(start, min(start + length, len(case)))
        yield Chunk(
            case=case,
            start=start,
            result=_stack(case.result, part, size),
            truth=None if case.truth is None else _stack(case.truth, part, size),
            driver=None if case.driver is None else _stack(case.driver, part),
        )


def _stack(frames: Frames, indices: range, size: tuple[int, int] | None = None) -> np.ndarray:
    """(n, H, W, 3), resized to (width, height), or to the first one's size."""
    images = [frames[i] for i in indices]
    size = size or images[0].size
    return np.stack([np.asarray(image.resize(size, Image.Resampling.LANCZOS)) for image in images])
