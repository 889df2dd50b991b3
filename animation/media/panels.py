"""Pictures beside each other, to look at: a clip of panels, a contact sheet, and a face's likeness as a plot."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from animation.files import write_whole
from animation.media.sound import Sound
from animation.media.writing import write_mp4

Picture = np.ndarray | Image.Image  # (H, W, 3) uint8 RGB, or a Pillow image
Panel = Image.Image | Iterable[Picture]  # one picture for all frames, or one a frame, of any size

PANEL_HEIGHT = 512  # pixels, of each panel of a clip
STRIP = 28  # pixels, of a line of text above or below the panels
TEXT = 16  # pixels, of its letters
MOMENTS = 6  # frames that a contact sheet shows of each video
THUMB = 144  # pixels, height of a contact sheet's pictures
GAP, LINE, ROW_NAMES = 6, 20, 64  # pixels of a contact sheet: between pictures, of a line of text, left of the rows
PLOT_SIZE = 960, 360  # pixels, width and height
CURVE, NO_FACE = "#1f63aa", "#fae4de"


def panel_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the panel for a picture of a size: 512 pixels high, and even as H.264 wants it."""
    return max(2, 2 * round(PANEL_HEIGHT * width / height / 2)), PANEL_HEIGHT


def panel(picture: Picture) -> np.ndarray:
    """The picture at its panel's size, (512, even width, 3) uint8."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    return np.asarray(image.resize(panel_size(*image.size), Image.Resampling.BICUBIC))


def write_panels(
    path: Path, panels: Mapping[str, Panel], fps: float, sound: Sound | None = None, caption: str = ""
) -> None:
    """Write an MP4 of panels beside each other, from left to right, under their names and over a caption, atomically.

    Raises:
        ValueError: one panel has fewer pictures than another.
    """
    still = {name: panel(picture) for name, picture in panels.items() if isinstance(picture, Image.Image)}
    moving = {name: pictures for name, pictures in panels.items() if name not in still}

    def frames() -> Iterator[np.ndarray]:
        """All panels of each frame, with their names above and the caption below."""
        above = below = None
        for pictures in zip(*moving.values(), strict=True):
            shown = still | dict(zip(moving, map(panel, pictures), strict=True))
            row = np.concatenate([shown[name] for name in panels], axis=1)
            if above is None:
                above = np.concatenate([text_strip(name, shown[name].shape[1]) for name in panels], axis=1)
                below = text_strip(caption, row.shape[1])[: STRIP if caption else 0]
            yield np.concatenate([above, row, below])

    write_whole(path, lambda partial: write_mp4(partial, frames(), fps, sound))


def text_strip(text: str, width: int) -> np.ndarray:
    """White text on black, smaller where it would not fit, (28, width, 3) uint8."""
    strip = Image.new("RGB", (width, STRIP))
    fonts = map(ImageFont.load_default, range(TEXT, 0, -1))
    font = next((font for font in fonts if font.getlength(text) <= width - 16), ImageFont.load_default(1))
    ImageDraw.Draw(strip).text((8, STRIP / 2), text, fill="white", font=font, anchor="lm")
    return np.asarray(strip)


@dataclass(kw_only=True)
class SheetBlock:
    """What a contact sheet shows of one animation.

    Attributes:
        title: stands above it.
        photo: RGB; None leaves it out.
        times: what stands above each moment, such as 0.50 s.
        rows: pictures by name, one for each of the moments, RGB; a row's are of one size.
    """

    title: str
    photo: Image.Image | None
    times: Sequence[str]
    rows: Mapping[str, Sequence[Image.Image]]


def pick_moments(num_frames: int) -> list[int]:
    """The numbers of up to six frames, evenly from the first to the last."""
    return np.linspace(0, num_frames - 1, min(MOMENTS, num_frames)).round().astype(int).tolist()


def draw_contact_sheet(blocks: Sequence[SheetBlock]) -> Image.Image:
    """Draw the blocks below each other, RGB: in each the photo, and right of it a column a moment."""
    drawn = [_draw_block(block) for block in blocks]
    sheet = Image.new("RGB", (max(image.width for image in drawn), sum(image.height for image in drawn)), "white")
    for i, image in enumerate(drawn):
        sheet.paste(image, (0, sum(above.height for above in drawn[:i])))
    return sheet


def _draw_block(block: SheetBlock) -> Image.Image:
    font, bold = ImageFont.load_default(size=13), ImageFont.load_default(size=15)
    photo = None if block.photo is None else _thumb(block.photo)
    rows = {name: [_thumb(picture) for picture in pictures] for name, pictures in block.rows.items()}
    column = max(picture.width for pictures in rows.values() for picture in pictures) + GAP
    left = GAP + (photo.width + GAP if photo else 0)
    top = GAP + 2 * LINE
    size = left + ROW_NAMES + len(block.times) * column, top + len(rows) * (THUMB + GAP) + GAP
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((GAP, GAP), block.title, fill="black", font=bold)
    if photo:
        draw.text((GAP, top - LINE / 2), "photo", fill="black", font=font, anchor="lm")
        image.paste(photo, (GAP, top))
    for k, time in enumerate(block.times):
        x = left + ROW_NAMES + k * column + (column - GAP) / 2
        draw.text((x, top - LINE / 2), time, fill="black", font=font, anchor="mm")
    for j, (name, pictures) in enumerate(rows.items()):
        y = top + j * (THUMB + GAP)
        draw.text((left + ROW_NAMES - GAP, y + THUMB / 2), name, fill="black", font=font, anchor="rm")
        for k, picture in enumerate(pictures):
            image.paste(picture, (left + ROW_NAMES + k * column + (column - GAP - picture.width) // 2, y))
    return image


def _thumb(image: Image.Image) -> Image.Image:
    return image.resize((max(1, round(image.width * THUMB / image.height)), THUMB), Image.Resampling.LANCZOS)


def plot_likeness(values: Sequence[float | None]) -> Image.Image:
    """Plot the likeness of each frame's face to the photo's (CSIM), RGB, 960×360 pixels.

    Cosine similarities by frame, −1..1; None (or NaN) where no face was found, which is shown as a band.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curve = np.array([math.nan if value is None else value for value in values], float)
    low = math.floor(min(0, np.nan_to_num(curve).min()) * 5) / 5
    figure = Figure(figsize=(PLOT_SIZE[0] / 100, PLOT_SIZE[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # no pyplot: no global state, no display
    axes = figure.subplots()
    gaps = [(frame - 0.5, 1) for frame in np.flatnonzero(np.isnan(curve))]
    axes.broken_barh(gaps, (low, 1 - low), facecolors=NO_FACE, label="no face found")
    axes.plot(curve, color=CURVE, marker="o", markersize=3 if len(curve) <= 200 else 1, linewidth=1.5)
    axes.set(xlim=(-0.5, len(curve) - 0.5), ylim=(low, 1), title=describe_likeness(values))
    axes.set(xlabel="frame", ylabel="cosine similarity to the photo's face")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(alpha=0.3)
    if gaps:
        axes.legend(loc="lower right")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def describe_likeness(values: Sequence[float | None]) -> str:
    """Mean, least and missing in words."""
    known = {i: value for i, value in enumerate(values) if value is not None and math.isfinite(value)}
    if not known:
        return f"likeness of the face: no face found in any of {len(values)} frames"
    worst = min(known, key=lambda i: known[i])
    text = f"likeness of the face: mean {np.mean(list(known.values())):.3f}, least {known[worst]:.3f} in frame {worst}"
    missing = len(values) - len(known)
    return text + (f", no face found in {missing} of {len(values)} frames" if missing else "")
