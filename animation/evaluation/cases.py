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

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.media.images import IMAGE_SUFFIXES, FrameFolder, load_photo
from animation.media.video import VideoFrames
from animation.media.writing import FRAMES_FOLDER
from DWPose.recording import KEYPOINTS_FILE, load_recording

logger = logging.getLogger(__name__)

PHOTO_STEM, VIDEO_FILE = "reference", "animation.mp4"


@dataclass(kw_only=True)
class Case:
    """One animation and what it is compared with, all of the same number of frames.

    `keypoints` and `scores`, (F, 134, 2) in 0..1 of the frame and (F, 134), are what the skeletons were drawn from.
    """

    name: str
    result: "Frames"
    truth: "Frames | None" = None
    driver: "Frames | None" = None
    poses: "Frames | None" = None
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


def _frames_at(candidates: Sequence[Path]) -> Path | None:
    """The first of the candidates that is a folder with numbered frames or a video."""
    for path in candidates:
        if _has_frames(path) or path.is_file():
            return path
    return None


class VideoClip:
    """The frames of a video file as RGB images, with the interface of `FrameFolder`; fast in rising order.

    Raises InputError: the file is missing, damaged or not a video.
    """

    def __init__(self, path: Path, max_frames: int | None = None):
        self.paths, self._video = [path], VideoFrames(path)
        self.sizes = {self._video.size}  # (width, height), pixels
        self._length = sum(1 for _ in itertools.islice(self._video, max_frames))
        self._index = -1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Image.Image:
        index = range(self._length)[index]
        if self._index < 0 or index < self._index:
            self._index, self._frames = -1, iter(self._video)
        while self._index < index:
            self._frame: np.ndarray = next(self._frames)
            self._index += 1
        return Image.fromarray(self._frame)


Frames = FrameFolder | VideoClip


def open_frames(path: Path, max_frames: int | None = None) -> Frames:
    """The frames of a folder or a video, RGB. Raises InputError."""
    return FrameFolder(path, max_frames) if path.is_dir() else VideoClip(path, max_frames)


def _is_case(path: Path) -> bool:
    """Whether a path of ground truth is one case, not a folder of cases, beside which a driver may lie."""
    if not path.is_dir():
        return True
    files = (path / "truth.mp4", *(path / f"{PHOTO_STEM}{suffix}" for suffix in IMAGE_SUFFIXES))
    folders = (path / "truth", path / "driver", path / "poses")
    if any(map(Path.is_file, files)) or any(map(Path.is_dir, folders)) or _has_frames(path):
        return True
    return (path / "driver.mp4").is_file() and not any(part.is_dir() and _is_case(part) for part in path.iterdir())


def find_cases(
    results: str | Path, truth: str | Path, names: Sequence[str] = (), max_frames: int | None = None
) -> list[Case]:
    """Find the cases of two folders, in the order of their names, and check that their parts fit together.

    Args:
        results: a folder with a folder a case; or one case's frames.
        truth: a folder with a folder a case of the same names; or one case.
        names: only these cases; none: all.
        max_frames: compare the first so many frames; None: all, and they must be equally many.

    Raises:
        InputError: nothing to compare, results are missing, numbers of frames differ, or a file cannot be read.
    """
    results, truth = Path(results), Path(truth)
    for flag, path in (("--results", results), ("--truth", truth)):
        if not path.exists():
            raise InputError(f"{flag} {path}: no such folder; give the folder of cases, or of one case")
    if _is_case(truth):
        if names:
            raise InputError(f"--truth {truth}: one case, not a folder of cases; leave out --cases")
        return [read_case(truth.resolve().name if truth.is_dir() else truth.stem, results, truth, max_frames)]
    folders = {path.name: path for path in sorted(truth.iterdir(), key=_natural) if path.is_dir() and _is_case(path)}
    if not folders:
        raise InputError(
            f"--truth {truth}: no cases there; a case is a folder such as case-1 with reference.png or truth/ in it"
        )
    unknown = [name for name in names if name not in folders]
    if unknown:
        raise InputError(f"--cases {', '.join(unknown)}: not in {truth}; it has {_some(list(folders))}")
    wanted = list(names) or list(folders)
    missing = [name for name in wanted if not (results / name).exists()]
    if missing:
        there = [path.name for path in sorted(results.glob("[!.]*"), key=_natural)]
        raise InputError(
            f"--results {results}: the results of {len(missing)} of {len(wanted)} cases are not there "
            f"({_some(missing)}); it has {_some(there) or 'nothing'}. Results are found by their case's name: animate "
            f"{truth / missing[0]} into {results / missing[0]}, or name those to compare with --cases"
        )
    return [read_case(name, results / name, folders[name], max_frames) for name in wanted]


def _natural(path: Path) -> tuple:
    """A key that puts case-2 before case-10."""
    digits = "".join(filter(str.isdigit, path.name))
    return path.name.rstrip("0123456789"), int(digits or 0), path.name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def read_case(name: str, result: Path, truth: Path, max_frames: int | None = None) -> Case:
    """One case from a path of generated frames and a path of what they are compared with. Raises InputError."""
    found = _frames_at([result / FRAMES_FOLDER, result, result / VIDEO_FILE])
    if found is None:
        raise InputError(f"{result}: no generated frames there; give a folder of numbered frames or {VIDEO_FILE}")
    parts: dict[str, Frames | None] = {}
    for part in ("truth", "driver", "poses"):
        candidates = [truth / part, truth / f"{part}.mp4"] + [truth] * (part == "truth")
        path = _frames_at(candidates)
        parts[part] = None if path is None else open_frames(path, max_frames)
    case = Case(name=name, result=open_frames(found, max_frames), fps=_rate(result))
    case.truth, case.driver, case.poses = parts["truth"], parts["driver"], parts["poses"]
    for part in ("truth", "driver"):
        frames = getattr(case, part)
        if frames is not None and len(frames) != len(case):
            raise InputError(
                f"case {name}: {len(case)} generated frames, but {len(frames)} of the {part}; make them equally many, "
                f"or compare the first with --max_frames {min(len(case), len(frames))}"
            )
    sizes = case.result.sizes
    if len(sizes) > 1:
        raise InputError(f"{found}: frames of {len(sizes)} sizes ({_sizes(sizes)}); make them again, all of one size")
    if case.truth is not None and case.truth.sizes != sizes:
        logger.info(
            "case %s: the ground truth of %s is resized to the generated frames' %s (width × height)",
            name,
            _sizes(case.truth.sizes),
            _sizes(sizes),
        )
    if case.poses is not None and len(case.poses) < len(case):
        case.poses = None  # shown only
    for suffix in IMAGE_SUFFIXES:
        if truth.is_dir() and (truth / f"{PHOTO_STEM}{suffix}").is_file():
            case.photo = load_photo(truth / f"{PHOTO_STEM}{suffix}")
            break
    if truth.is_dir() and (truth / "poses" / KEYPOINTS_FILE).is_file():
        case.keypoints, case.scores = read_targets(truth / "poses" / KEYPOINTS_FILE, len(case))
    return case


def _rate(result: Path) -> float | None:
    """Frames a second of results, where a video says so."""
    try:
        return VideoFrames(result if result.is_file() else result / VIDEO_FILE).fps
    except InputError:
        return None


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width}×{height}" for width, height in sorted(sizes))


def read_targets(path: Path, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The key points that skeletons were drawn from: (F, 134, 2) in 0..1 of the frame, and scores (F, 134).

    Of several people in a frame the first is taken; a frame without people has scores of 0.

    Args:
        path: the keypoints.npz that skeleton_extraction.py wrote beside the skeletons.
        num_frames: F; more in the file are left out.

    Raises:
        InputError: the file is damaged.
        InputError: nothing was drawn from it, or it has fewer frames.
    """
    drawn = load_recording(path).drawn
    if drawn is None or drawn.num_frames < num_frames:
        frames = 0 if drawn is None else drawn.num_frames
        raise InputError(
            f"{path}: skeletons of {frames} frames for {num_frames} generated ones; extract them again, "
            "or remove the file"
        )
    keypoints = np.zeros((num_frames, *drawn.keypoints.shape[1:]))
    scores = np.zeros(keypoints.shape[:2])
    for i in reversed(np.flatnonzero(drawn.frames < num_frames)):  # so that a frame's first person stays
        keypoints[drawn.frames[i]], scores[drawn.frames[i]] = drawn.keypoints[i], drawn.scores[i]
    return keypoints, scores


@dataclass(kw_only=True)
class Chunk:
    """Some neighbouring frames of a case, (n, H, W, 3) uint8 RGB; the truth has the generated frames' size.

    The driver has its own size.
    """

    case: Case
    start: int
    result: np.ndarray
    truth: np.ndarray | None
    driver: np.ndarray | None

    def __len__(self) -> int:
        return len(self.result)


def chunks(case: Case, length: int) -> Iterator[Chunk]:
    """Read a case, `length` frames at a time. Raises InputError: a file cannot be read."""
    for start in range(0, len(case), length):
        indices = range(start, min(start + length, len(case)))

        def stack(frames: Frames | None, size=None, indices=indices) -> np.ndarray | None:
            """(n, H, W, 3), resized where asked to."""
            if frames is None:
                return None
            images = [frames[i] for i in indices]
            size = size or images[0].size
            return np.stack([np.asarray(fit(image, size)) for image in images])

        yield Chunk(
            case=case,
            start=start,
            result=stack(case.result),
            truth=stack(case.truth, case.size),
            driver=stack(case.driver),
        )


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (width, height), resized where it has another size."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
