"""Images in: the reference photo and folders of numbered frames."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from animation.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")  # Pillow hands others to programs: EPS to gs
ASPECT_TOLERANCE = 0.02  # of width over height: below it nobody sees a difference
SIZE_MULTIPLE = 64  # 8 of the VAE times 8 of the UNet
LARGEST_PHOTO = 4096  # pixels of the longer side: anti-aliasing a larger photo for CLIP takes gigabytes
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes, width and height, have the same aspect ratio, to 2 %."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= ASPECT_TOLERANCE


def warn_if_stretched(what: str, sizes: Iterable[tuple[int, int]], wanted: tuple[int, int], advice: str) -> None:
    """Log a warning, with what to do, for each size, width and height, of another shape than the wanted one."""
    for size in sorted(sizes):
        if not same_shape(size, wanted):
            stretched = f"{size[0]}×{size[1]} (width × height) stretched to {wanted[0]}×{wanted[1]}"
            logger.warning(f"{what} of {stretched}; {advice}")


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


@contextmanager
def _opened(path: str | Path, remedy: str = "give a PNG or JPEG file") -> Iterator[Image.Image]:
    """A picture of one of `FORMATS`, open within the context, where what Pillow raises becomes an InputError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # of a damaged file: Pillow's own, and from struct, zlib and its readers' lists
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise InputError(f"{path}: not a readable image ({reason}); {remedy}") from None


def open_rgb(path: str | Path) -> Image.Image:
    """Read one picture as RGB, upright (its EXIF rotation applied): the reader of all pictures and frames.

    Raises:
        InputError: the file cannot be read, is no image, or its range of values is unknown.
    """
    with _opened(path) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.mode in ("I", "F"):
            raise ValueError(f"32-bit grey values, mode {image.mode}: save it with 8 bits a channel")
        if image.mode.startswith("I;16"):  # Pillow would clip its 16 bits to 8, not scale them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")


def load_photo(path: str | Path) -> Image.Image:
    """Load one still image as RGB, upright (its EXIF rotation applied), its longer side at most `LARGEST_PHOTO`.

    Raises:
        InputError: the file is missing, not an image, or animated.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such photo; give the path of one image file")
    with _opened(path) as image:
        frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "PNG", "WEBP") else 1
        if frames > 1:
            raise InputError(f"{path}: an animation of {frames} frames; give one still image")
    photo = open_rgb(path)
    if max(photo.size) > LARGEST_PHOTO:
        width, height = photo.size
        logger.info(f"{path}: reduced from {width}×{height} pixels to {LARGEST_PHOTO} on its longer side")
        photo.thumbnail((LARGEST_PHOTO, LARGEST_PHOTO), Image.Resampling.LANCZOS)
    return photo


def frame_number(path: Path) -> int | None:
    """The last number in a file's name, such as 7 of frame_07.png; None where there is none."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else None


def list_pictures(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, by name, shorter ones first; hidden ones are left out. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of PNG or JPEG pictures")
    visible = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    pictures = (path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(pictures, key=lambda path: (len(path.stem), path.name))


def list_frames(folder: str | Path) -> list[Path]:
    """The PNG and JPEG files of a folder in the order of the last number in their names, whatever its digits.

    Gaps and a start other than 0 are said in the log. Other files are passed over.

    Raises:
        InputError: the folder is missing or holds no frames, a name has no number, or two names have the same one.
    """
    numbered: dict[int, Path] = {}
    for path in list_pictures(Path(folder)):
        number = frame_number(path)
        if number is None:
            raise InputError(f"{path}: its name has no number, so its place is unknown; name frames like frame_0.png")
        if number in numbered:
            twins = f"{numbered[number].name} and {path.name}"
            raise InputError(f"{folder}: {twins} have the same number; keep one of them")
        numbered[number] = path
    if not numbered:
        raise InputError(f"{folder}: no PNG or JPEG frames there; give a folder of numbered frames such as frame_0.png")
    order = sorted(numbered)
    if order != list(range(len(order))):
        gaps = order[-1] - order[0] + 1 - len(order)
        logger.info(
            f"{folder}: {counted(len(order), 'frame')} numbered {order[0]} to {order[-1]}, {gaps} numbers left out; "
            "taken in this order, written from 0"
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
            with _opened(path, "make it again") as image:
                exif = Image.Image.getexif(image)  # PNG's own would decode the picture to look behind it
                turned = exif.get(ExifTags.Base.Orientation) in SIDEWAYS
                self.frame_sizes.append(image.size[::-1] if turned else image.size)
                image.verify()
        self.sizes = set(self.frame_sizes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return open_rgb(self.paths[index])
