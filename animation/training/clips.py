"""Clips on disk: `<root>/{rec,vec}/00001/{images,poses,faces}/frame_%d.png`, and text files that list their folders.

A clip may also have photos/: what the reference shows in place of the image of that number, such as a picture of the
person from afar. The face embedding is the image's all the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.media.images import IMAGE_SUFFIXES, check_size, frame_number, load_photo

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
    """The frames of one clip that have a skeleton, in order: one path a frame, None for a frame without a face mask.

    Attributes:
        photos: what a frame shows as reference: its image, or what stands for it in photos/.
        missing_poses: number of frames left out because they have no skeleton.
    """

    images: list[Path]
    poses: list[Path]
    masks: list[Path | None]
    photos: list[Path]
    missing_poses: int

    @property
    def missing_masks(self) -> int:
        """Frames without a face mask: theirs counts as empty."""
        return self.masks.count(None)


def _numbered(folder: Path) -> dict[int, Path]:
    """The image files of a folder by the last number in their names."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise ClipError(f"{folder.name}/ cannot be read ({error.strerror})") from None
    numbers = {path: frame_number(path) for path in paths if not path.name.startswith(".")}
    return {number: path for path, number in numbers.items() if number is not None}


def read_clip(folder: Path, least_frames: int = 1) -> Clip:
    """List the frames of a folder with images/, poses/ and faces/.

    Raises:
        ClipError: images/ or poses/ is missing, or fewer frames than `least_frames` have a skeleton.
    """
    images, poses = _numbered(folder / "images"), _numbered(folder / "poses")
    masks, photos = (_numbered(path) if path.is_dir() else {} for path in (folder / "faces", folder / "photos"))
    numbers = sorted(images.keys() & poses.keys())
    if len(numbers) < least_frames:
        without = f", {len(images)} images" if len(images) != len(numbers) else ""
        raise ClipError(f"{len(numbers)} frames with a skeleton{without}; {least_frames} are needed")
    return Clip(
        images=[images[n] for n in numbers],
        poses=[poses[n] for n in numbers],
        masks=[masks.get(n) for n in numbers],
        photos=[photos.get(n, images[n]) for n in numbers],
        missing_poses=len(images) - len(numbers),
    )


def read_image(path: Path) -> Image.Image:
    """One image, skeleton or mask of a clip as upright RGB. Raises ClipError."""
    try:
        return load_photo(path)
    except InputError as error:
        raise ClipError(f"{path.parent.name}/{path.name} cannot be read ({error})") from None


def choose_frames(length: int, count: int, stride: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Choose `count` equally spaced frames of a clip that has at least as many, and a reference frame.

    Returns:
        The frames, `stride` apart or less where the clip is too short for it, and the reference: one of the others, or
        of these where there are no others.
    """
    if count > 1:
        stride = min(stride, (length - 1) // (count - 1))
    span = (count - 1) * stride + 1
    start = int(rng.integers(length - span + 1))
    frames = list(range(start, start + span, stride))
    others = sorted(set(range(length)) - set(frames)) or frames
    return frames, others[rng.integers(len(others))]


def _read_list(path: Path, root: Path | None) -> list[Path]:
    """The clip folders that a text file lists, one a line.

    A folder that is not where the line says is looked for under `root` and beside the list, by the line's whole path
    and by its last two names, so that a moved data set keeps working.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "not a text file")
        raise InputError(f"{path}: cannot be read ({why}); give a text file with a clip folder on each line") from None
    folders = [Path(line) for line in lines if line and not line.startswith("#")]
    if not folders:
        raise InputError(f"{path}: lists no clip; write a clip folder on each line")
    bases = [base for base in (root, path.parent) if base is not None]

    def locate(folder: Path) -> Path:
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


def read_buckets(lists: Sequence[tuple[int, int, str | Path]], root: str | Path | None = None) -> list[Bucket]:
    """Read the clips of each (width, height, list file); without any, those of `root`'s own lists, or
    where it has none, of its rec/ and vec/ folders.

    Raises:
        InputError: a size is not a multiple of 64, a list cannot be read, or there are no clips.
    """
    root = Path(root) if root is not None else None
    buckets = [Bucket(width, height, _read_list(Path(path), root)) for width, height, path in lists]
    if not lists and root is not None:
        for name, size in RELEASED_BUCKETS.items():
            listed = root / f"video_{name}_path.txt"
            if listed.is_file() and listed.stat().st_size:
                clips = _read_list(listed, root)
            else:
                clips = sorted(root.glob(f"{name}/*/"))
            buckets += [Bucket(*size, clips)] if clips else []
    for bucket in buckets:
        check_size(bucket.height, bucket.width)
    if not buckets:
        where = f"{root} holds no rec/ or vec/ folder of clips" if root is not None else "no data"
        raise InputError(f"{where}; give --rec_data_path, --vec_data_path, --data_path or --bucket")
    return buckets
