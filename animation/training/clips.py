"""Clips on disk: `<root>/{rec,vec}/00001/{images,poses,faces}/frame_%d.png`, and text files that list their folders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.media.images import IMAGE_SUFFIXES, check_size, load_photo

RELEASED_BUCKETS = {"rec": (512, 512), "vec": (576, 1024)}  # (width, height)


class ClipError(ValueError):
    """A clip that cannot be used, and why."""


@dataclass
class Bucket:
    """Clips that are trained at one size: `width` × `height` pixels."""

    width: int
    height: int
    clips: list[Path]

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass
class Clip:
    """The frames of one clip that have a skeleton, in order.

    Attributes:
        images, poses: one path a frame.
        masks: of the face; None where there is none.
        missing_poses: number of frames left out because they have no skeleton.
    """

    images: list[Path]
    poses: list[Path]
    masks: list[Path | None]
    missing_poses: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def missing_masks(self) -> int:
        """Frames without a face mask: theirs counts as empty."""
        return sum(mask is None for mask in self.masks)


def _numbered(folder: Path) -> dict[int, Path]:
    """The image files of a folder by the last number in their names."""
    try:
        names = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise ClipError(f"{folder.name}/ cannot be read ({error.strerror})") from None
    numbers = ((re.findall(r"\d+", path.stem), path) for path in names if not path.name.startswith("."))
    return {int(found[-1]): path for found, path in numbers if found}


def read_clip(folder: Path, least_frames: int = 1) -> Clip:
    """List a clip's frames.

    Args:
        folder: holds images/, poses/ and faces/.
        least_frames: how many with a skeleton it must have.

    Raises:
        ClipError: a folder is missing, or there are fewer frames.
    """
    images, poses = _numbered(folder / "images"), _numbered(folder / "poses")
    masks = _numbered(folder / "faces") if (folder / "faces").is_dir() else {}
    numbers = sorted(images.keys() & poses.keys())
    if len(numbers) < least_frames:
        without = f", {len(images)} images" if len(images) != len(numbers) else ""
        raise ClipError(f"{len(numbers)} frames with a skeleton{without}; {least_frames} are needed")
    return Clip(
        images=[images[n] for n in numbers],
        poses=[poses[n] for n in numbers],
        masks=[masks.get(n) for n in numbers],
        missing_poses=len(images) - len(numbers),
    )


def read_image(path: Path) -> Image.Image:
    """One image, skeleton or mask of a clip as upright RGB. Raises ClipError."""
    try:
        return load_photo(path)
    except InputError as error:
        raise ClipError(f"{path.parent.name}/{path.name} cannot be read ({error})") from None


def choose_frames(
    num_frames: int, sample_n_frames: int, stride: int, rng: np.random.Generator
) -> tuple[list[int], int]:
    """Choose the frames of a sample and its reference frame.

    Args:
        num_frames: of the clip, at least `sample_n_frames`.
        sample_n_frames: how many to take.
        stride: step between them; smaller where the clip is too short for it.
        rng: draws the start and the reference.

    Returns:
        The frames, equally spaced, and the reference: one of the others, or of these where there are no others.
    """
    if sample_n_frames > 1:
        stride = min(stride, (num_frames - 1) // (sample_n_frames - 1))
    span = (sample_n_frames - 1) * stride + 1
    start = int(rng.integers(num_frames - span + 1))
    frames = list(range(start, start + span, stride))
    others = sorted(set(range(num_frames)) - set(frames)) or frames
    return frames, others[rng.integers(len(others))]


def read_clip_list(path: str | Path, root: str | Path | None = None) -> list[Path]:
    """The clip folders that a text file lists, one a line.

    A folder that is not where the line says is looked for under `root` and beside the list, by the line's whole path
    and by its last two names, so that a moved data set keeps working.

    Raises:
        InputError: the file is missing or lists nothing.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(
            f"{path}: cannot be read ({reason}); give a text file with a clip folder on each line"
        ) from None
    folders = [Path(line) for line in lines if line and not line.startswith("#")]
    if not folders:
        raise InputError(f"{path}: lists no clip; write a clip folder on each line")
    bases = [Path(base) for base in (root, path.parent) if base is not None]

    def locate(folder: Path) -> Path:
        """Where a line's folder is."""
        candidates = [folder] if folder.is_absolute() else [*(base / folder for base in bases), folder]
        candidates += [base / Path(*folder.parts[-2:]) for base in bases]
        return next((candidate for candidate in candidates if candidate.is_dir()), folder)

    return [locate(folder) for folder in folders]


def parse_bucket(text: str) -> tuple[int, int, str]:
    """`WIDTHxHEIGHT:LIST.txt` → (width, height, list). Raises InputError."""
    match = re.fullmatch(r"(\d+)[x×](\d+):(.+)", text)
    if not match:
        raise InputError(f"--bucket {text}: not understood; give WIDTHxHEIGHT:LIST.txt, such as 512x512:clips.txt")
    return int(match[1]), int(match[2]), match[3]


def read_buckets(lists: Sequence[tuple[int, int, str]], root: str | Path | None = None) -> list[Bucket]:
    """Read the clips of each (width, height, list file); without any, those of `root`'s own lists, or
    where it has none, of its rec/ and vec/ folders.

    Raises:
        InputError: a size is not a multiple of 64, or there are no clips.
    """
    buckets = [Bucket(width, height, read_clip_list(path, root)) for width, height, path in lists]
    if not lists and root is not None:
        for name, size in RELEASED_BUCKETS.items():
            folder, listed = Path(root) / name, Path(root) / f"video_{name}_path.txt"
            if listed.is_file() and listed.stat().st_size:
                clips = read_clip_list(listed, root)
            else:
                clips = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
            buckets += [Bucket(*size, clips)] if clips else []
    for bucket in buckets:
        check_size(bucket.height, bucket.width)
    if not buckets:
        where = f"{root} holds no rec/ or vec/ folder of clips" if root is not None else "no data"
        raise InputError(f"{where}; give --rec_data_path, --vec_data_path, --data_path or --bucket")
    return buckets
