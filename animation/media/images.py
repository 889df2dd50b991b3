"""Images in: the reference photo and folders of numbered frames."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from animation.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ASPECT_TOLERANCE = 0.02  # of width over height: below it nobody sees a difference
SIZE_MULTIPLE = 64  # 8 of the VAE times 8 of the UNet
LARGEST_PHOTO = 4096  # pixels of the longer side: anti-aliasing a larger photo for CLIP takes gigabytes
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes, width and height, have the same aspect ratio, to 2 %."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= ASPECT_TOLERANCE


def warn_if_stretched(what: str, sizes: Iterable[tuple[int, int]], wanted: tuple[int, int], advice: str) -> None:
    """Log a warning for each of the sizes, width and height, that has another shape than the wanted one.

    Args:
        what: is of these sizes, such as "poses".
        advice: what to do.
    """
    for width, height in sorted(sizes):
        if not same_shape((width, height), wanted):
            logger.warning(
                f"{what} of {width}×{height} (width × height) stretched to {wanted[0]}×{wanted[1]}; {advice}"
            )


def check_size(height: int, width: int) -> None:
    """Raise InputError, naming the nearest valid sizes, unless both are positive multiples of 64 pixels."""
    for name, size in (("height", height), ("width", width)):
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            below = max(size // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
            nearest = f"{below} or {below + SIZE_MULTIPLE}" if size > SIZE_MULTIPLE else f"{below}"
            raise InputError(
                f"{name} {size} is not a multiple of {SIZE_MULTIPLE}; the nearest valid {name} is {nearest}"
            )


def read_size(text: str, name: str = "size") -> tuple[int, int]:
    """Width and height of WIDTHxHEIGHT in pixels, such as 576x1024. Raises InputError, naming the flag of that name."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", text, re.ASCII)
    if match is None:
        raise InputError(f"--{name} {text}: not understood; give WIDTHxHEIGHT in pixels, such as 576x1024")
    return int(match[1]), int(match[2])


def counted(number: int, what: str) -> str:
    """Such as "1 frame" and "2 frames"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. Raises ValueError for formats whose range of values is unknown."""
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit grey values, mode {image.mode}: save it with 8 bits a channel")
    if image.mode.startswith("I;16"):  # Pillow would clip its 16 bits to 8, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def open_rgb(path: str | Path) -> Image.Image:
    """Read one picture as RGB, upright (its EXIF rotation applied): the reader of all pictures and frames.

    Raises:
        InputError: the file cannot be read, is no image, or its range of values is unknown.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable image ({_reason(error)}); give a PNG or JPEG file") from None


def _reason(error: Exception) -> str:
    """Of a failed reading, in one line."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0]


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once its EXIF rotation is applied, pixels."""
    width, height = image.size
    exif = Image.Image.getexif(image)  # PNG's own would decode the picture to look behind it
    return (height, width) if exif.get(ExifTags.Base.Orientation) in SIDEWAYS else (width, height)


def load_photo(path: str | Path) -> Image.Image:
    """Load one still image as RGB, upright (its EXIF rotation applied), its longer side at most `LARGEST_PHOTO`.

    Raises:
        InputError: the file is missing, not an image, or animated.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such photo; give the path of one image file")
    try:
        with Image.open(path) as image:
            if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):
                raise InputError(f"{path}: an animation of {image.n_frames} frames; give one still image")
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable image ({_reason(error)}); give a PNG or JPEG file") from None
    photo = open_rgb(path)
    if max(photo.size) > LARGEST_PHOTO:
        logger.info("%s: reduced from %d×%d pixels to %d on its longer side", path, *photo.size, LARGEST_PHOTO)
        photo.thumbnail((LARGEST_PHOTO, LARGEST_PHOTO), Image.Resampling.LANCZOS)
    return photo


def frame_number(path: Path) -> int | None:
    """The last number in a file's name, such as 7 of frame_07.png; None where there is none."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else None


def list_frames(folder: str | Path) -> list[Path]:
    """The PNG and JPEG files of a folder in the order of the last number in their names, whatever its digits.

    Gaps and a start other than 0 are said in the log. Other files are passed over.

    Raises:
        InputError: the folder is missing or holds no frames, a name has no number, or two names have the same one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of numbered frames such as frame_0.png")
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        number = frame_number(path)
        if number is None:
            raise InputError(f"{path}: its name has no number, so its place is unknown; name frames like frame_0.png")
        if number in numbered:
            raise InputError(
                f"{folder}: {numbered[number].name} and {path.name} have the same number; keep one of them"
            )
        numbered[number] = path
    if not numbered:
        raise InputError(f"{folder}: no PNG or JPEG frames there; give a folder of numbered frames such as frame_0.png")
    order = sorted(numbered)
    if order != list(range(len(order))):
        gaps = order[-1] - order[0] + 1 - len(order)
        logger.info(
            "%s: %s numbered %d to %d, %d numbers left out; taken in this order, written from 0",
            folder,
            counted(len(order), "frame"),
            order[0],
            order[-1],
            gaps,
        )
    return [numbered[number] for number in order]


class FrameFolder(Sequence):
    """The frames of a folder as upright RGB images, each read when it is asked for.

    Args:
        folder: where `list_frames` finds them.
        max_frames: take only the first so many.

    Raises:
        InputError: as `list_frames`, or `max_frames` is below 1, or a file is not a readable image.
    """

    def __init__(self, folder: str | Path, max_frames: int | None = None):
        if max_frames is not None and max_frames < 1:
            raise InputError(f"max_frames {max_frames} is below 1; leave it out to take all frames")
        self.paths = list_frames(folder)[:max_frames]
        self.frame_sizes: list[tuple[int, int]] = []  # width and height of each, upright, pixels
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    self.frame_sizes.append(_upright_size(image))
                    image.verify()
            except UNREADABLE as error:
                raise InputError(f"{path}: not a readable image ({_reason(error)}); make it again") from None
        self.sizes = set(self.frame_sizes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return open_rgb(self.paths[index])
