"""The photo on a canvas of the model's size: cut, padded or stretched, and the padding cut off the result again.

Skeletons are fitted to the photo, so they must be fitted to the photo on its canvas: make the framing of the photo,
draw the photo on the canvas with `apply`, and give that picture to everything after it (alignment, face, animation),
with skeletons drawn at the canvas's width and height; `crop` the finished frames.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.media.images import ASPECT_TOLERANCE, LARGEST_PHOTO, check_size, read_size, same_shape

logger = logging.getLogger(__name__)

FITS = ("crop", "pad", "stretch")
AUTO = "auto"
BUCKETS = ((512, 512), (576, 1024), (1024, 576))  # width and height: what the released weights were trained on
SHOULDERS = 1.0  # widths of a face: what is kept on either side of it
HAIR = 0.5  # heights of a face: what is kept above it
KEPT_ABOVE = 0.25  # of the height that a crop takes off, this share is taken from above, where heads are


@dataclass(frozen=True)
class Framing:
    """How a photo of one size lies on a canvas.

    Attributes:
        width, height: of the canvas, pixels, multiples of 64.
        photo_size: width and height of the photo, pixels.
        source: what of the photo is seen: left, top, right and bottom in its pixels, fractions included.
        box: where that lies on the canvas: left, top, right and bottom in pixels, of even width and height.
        face: x and y of the centre of the face of the person who counts, in 0..1 of the canvas; None: not known.
    """

    width: int
    height: int
    photo_size: tuple[int, int]
    source: tuple[float, float, float, float]
    box: tuple[int, int, int, int]
    face: tuple[float, float] | None = None

    @property
    def output_size(self) -> tuple[int, int]:
        """Width and height of what `crop` leaves, pixels, even numbers."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    def apply(self, image: Image.Image, colour: tuple[int, int, int] | None = None) -> Image.Image:
        """Draw the photo, or another picture of its shape such as a mask of it, on the canvas, RGB.

        Args:
            image: of any size but of the photo's shape.
            colour: of the padding; None: the median colour of the photo's edges beside it, which leaves the least
                of an edge for the model to continue.

        Raises:
            InputError: the picture has another shape than the photo.
        """
        width, height = self.photo_size
        if not same_shape(image.size, self.photo_size):
            due = f"one of the shape of the photo ({width}×{height})"
            raise InputError(f"a picture of {image.width}×{image.height} pixels, where {due} was due")
        across, down = image.width / width, image.height / height
        left, top, right, bottom = self.source
        part = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
        image = image.convert("RGB")
        seen = image.resize(self.output_size, Image.Resampling.LANCZOS, box=part)
        if self.output_size == (self.width, self.height):
            return seen
        canvas = Image.new("RGB", (self.width, self.height), colour or self._edge_colour(image))
        canvas.paste(seen, self.box[:2])
        return canvas

    def keeping(self, face: Sequence[float]) -> "Framing":
        """The same with a known face: what is seen of the photo moves as little as it takes to show it.

        Args:
            face: its left, top, right and bottom in the photo's pixels. The hair and the shoulders count with it.
        """
        left, top, right, bottom = face
        beside, above = SHOULDERS * (right - left), HAIR * (bottom - top)
        x_start, y_start, x_stop, y_stop = self.source
        x_start, x_stop = _moved(x_start, x_stop, left - beside, right + beside, self.photo_size[0])
        y_start, y_stop = _moved(y_start, y_stop, top - above, bottom, self.photo_size[1])
        source = x_start, y_start, x_stop, y_stop
        if source != self.source:
            logger.info("the part of the photo that is seen was moved to the face")
        x = ((left + right) / 2 - x_start) / (x_stop - x_start) * self.output_size[0] + self.box[0]
        y = ((top + bottom) / 2 - y_start) / (y_stop - y_start) * self.output_size[1] + self.box[1]
        return replace(self, source=source, face=(x / self.width, y / self.height))

    def _edge_colour(self, image: Image.Image) -> tuple[int, int, int]:
        """The median colour of the photo's two edges beside the padding, 1 % of it wide."""
        pixels = np.asarray(image)
        if self.box[0] > 0:
            pixels = pixels.swapaxes(0, 1)
        rows = max(1, len(pixels) // 100)
        edges = np.concatenate([pixels[:rows], pixels[-rows:]]).reshape(-1, 3)
        red, green, blue = np.median(edges, axis=0).astype(int).tolist()
        return red, green, blue

    def crop(self, frames: np.ndarray) -> np.ndarray:
        """Cut the padding off frames, (F, height, width, 3) uint8 → (F, h, w, 3), h and w even."""
        if frames.shape[1:3] != (self.height, self.width):
            raise ValueError(f"frames of {frames.shape[2]}×{frames.shape[1]} on a canvas of {self.width}×{self.height}")
        left, top, right, bottom = self.box
        return np.ascontiguousarray(frames[:, top:bottom, left:right])


def frame_photo(photo_size: tuple[int, int], size: str = AUTO, fit: str = "crop") -> Framing:
    """Lay a photo on a canvas; the log says what is cut off, added or distorted.

    Args:
        photo_size: width and height, pixels.
        size: of the canvas: WIDTHxHEIGHT, or `auto` for the one of `BUCKETS` whose shape is nearest to the photo's.
        fit: `crop` fills the canvas and cuts off what is beyond it, left and right alike, and of what goes above and
            below a quarter above; `pad` shows the whole photo between two bands of one colour; `stretch` distorts it.

    Raises:
        InputError: the size is not understood, not a multiple of 64 or above 4096, or the fit is unknown.
    """
    if fit not in FITS:
        raise InputError(f"--fit {fit}: unknown; use {', '.join(FITS)}")
    if size == AUTO:
        aspect = photo_size[0] / photo_size[1]
        width, height = min(BUCKETS, key=lambda size: round(abs(math.log(size[0] / size[1] / aspect)), 6))
    else:
        width, height = read_size(size)
        check_size(height, width)
        if max(width, height) > LARGEST_PHOTO:
            raise InputError(f"--size {size}: above {LARGEST_PHOTO} pixels; give a smaller one")
    box = _centred_box(photo_size, width, height) if fit == "pad" else (0, 0, width, height)
    source = (0.0, 0.0, float(photo_size[0]), float(photo_size[1]))
    if fit != "stretch":  # of the photo, the largest part that has the exact shape of its place
        source = _largest_part(photo_size, (box[2] - box[0]) / (box[3] - box[1]))
    framing = Framing(width, height, photo_size, source, box)
    left, top, right, bottom = source
    stretched = framing.output_size[0] / (right - left) / (framing.output_size[1] / (bottom - top))
    lost = 1 - (right - left) * (bottom - top) / math.prod(photo_size)
    added = 1 - math.prod(framing.output_size) / (width * height)
    what = f"the photo of {photo_size[0]}×{photo_size[1]} on {width}×{height} (width × height)"
    if fit == "stretch" and abs(stretched - 1) > ASPECT_TOLERANCE:
        told = f"stretched to {100 * stretched:.0f} % of its width over height; --fit crop or pad keeps its shape"
        logger.warning(f"{what}: {told}")
    elif fit == "crop" and lost > ASPECT_TOLERANCE:
        logger.info(f"{what}: {100 * lost:.0f} % of it cut off; --fit pad shows all of it")
    elif fit == "pad" and added > ASPECT_TOLERANCE:
        logger.info(f"{what}: {100 * added:.0f} % of the picture is padding, which is cut off the result")
    return framing


def _moved(start: float, stop: float, first: float, last: float, length: float) -> tuple[float, float]:
    """A range, moved within 0..length to hold another, or where that is longer, to have its centre."""
    if start <= max(first, 0) and min(last, length) <= stop:
        return start, stop
    extent = stop - start
    start = (first + last - extent) / 2 if last - first > extent else min(max(start, last - extent), first)
    start = min(max(start, 0.0), length - extent)
    return start, start + extent


def _centred_box(photo_size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The largest centred box of a photo's shape, of even size."""
    scale = min(width / photo_size[0], height / photo_size[1])
    box_width, box_height = (max(2, 2 * round(side * scale / 2)) for side in photo_size)
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _largest_part(photo_size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """The largest part of a photo that has an aspect ratio (width over height)."""
    photo_width, photo_height = photo_size
    width, height = min(photo_width, photo_height * aspect), min(photo_height, photo_width / aspect)
    left, top = (photo_width - width) / 2, (photo_height - height) * KEPT_ABOVE
    return left, top, left + width, top + height
