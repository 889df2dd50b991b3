"""A result to look at: a side-by-side clip, the face's likeness over time as a plot, and a contact sheet."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from animation.evaluation.cases import Case
from animation.evaluation.contact_sheet import contact_sheet
from animation.media.sound import Sound
from animation.media.writing import write_mp4

PANEL_HEIGHT = 512  # pixels, of each panel of the side-by-side clip
STRIP = 24  # pixels, the names above the panels
PLOT_SIZE = 960, 360  # pixels, width and height
MARGINS = 56, 32, 16, 40  # pixels around the plot: left, top, right, bottom
INK, GRID, LINE, GONE = (40, 40, 40), (225, 225, 225), (31, 99, 170), (250, 228, 222)
MOST_TICKS = 10


def write_side_by_side(
    path: Path,
    photo: Image.Image,
    driver: Iterable[np.ndarray | Image.Image] | None,
    skeletons: Iterable[np.ndarray | Image.Image] | None,
    result: Iterable[np.ndarray | Image.Image],
    fps: float,
    sound: Sound | None = None,
) -> None:
    """Write an MP4 with photo, driver, skeleton and result beside each other in every frame, whole or not at all.

    Args:
        path: ends with .mp4.
        photo: the same in all frames.
        driver, skeletons: RGB, of any size, one for each frame of the result; None leaves that panel out.
        result: RGB frames, of any size.
        fps: frames a second.
        sound: of the clip.
    """
    named = (("driver", driver), ("skeleton", skeletons), ("result", result))
    moving = [(name, frames) for name, frames in named if frames is not None]
    partial = path.with_name(f".{path.stem}.partial.mp4")
    still = _panel(photo)

    def frames() -> Iterator[np.ndarray]:
        """All panels of each frame under their names."""
        strip = None
        for pictures in zip(*(frames for _, frames in moving), strict=True):
            panels = [still, *map(_panel, pictures)]
            if strip is None:
                strip = _names(["photo", *(name for name, _ in moving)], [panel.shape[1] for panel in panels])
            yield np.concatenate([strip, np.concatenate(panels, axis=1)])

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_mp4(partial, frames(), fps, sound)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _panel(picture: np.ndarray | Image.Image) -> np.ndarray:
    """(512, even width, 3) uint8."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    width = max(2, 2 * round(PANEL_HEIGHT * image.width / image.height / 2))
    return np.asarray(image.resize((width, PANEL_HEIGHT), Image.Resampling.LANCZOS))


def _names(names: Sequence[str], widths: Sequence[int]) -> np.ndarray:
    """A black strip, (24, sum of the widths, 3), with a name above each panel."""
    strip = Image.new("RGB", (sum(widths), STRIP))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=14)
    for number, name in enumerate(names):
        draw.text((sum(widths[:number]) + 6, 3), name, fill="white", font=font)
    return np.asarray(strip)


def plot_csim(values: Sequence[float | None], title: str = "CSIM") -> Image.Image:
    """Draw the likeness of each frame's face to the photo's, RGB, 960×360 pixels.

    Args:
        values: cosine similarities by frame, −1..1; None (or NaN) where no face was found, which is shown as a band.
        title: stands above the plot, with the mean and the least and in which frame that is.

    Raises:
        ValueError: there are no frames.
    """
    if not len(values):
        raise ValueError("no frames to plot")
    known = {i: float(v) for i, v in enumerate(values) if v is not None and math.isfinite(v)}
    low = math.floor(min([0.0, *known.values()]) * 5) / 5  # of the axis
    image = Image.new("RGB", PLOT_SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    left, top = MARGINS[0], MARGINS[1]
    right, bottom = PLOT_SIZE[0] - MARGINS[2], PLOT_SIZE[1] - MARGINS[3]

    def x(frame: float) -> float:
        """Pixels of a frame's number."""
        return left + (right - left) * (frame / (len(values) - 1) if len(values) > 1 else 0.5)

    def y(value: float) -> float:
        """Pixels of a similarity."""
        return bottom - (bottom - top) * (value - low) / (1 - low)

    half = (x(1) - x(0)) / 2 if len(values) > 1 else (right - left) / 2
    for frame in sorted(set(range(len(values))) - set(known)):
        draw.rectangle([max(left, x(frame) - half), top, min(right, x(frame) + half), bottom], fill=GONE)
    for fifth in range(round(low * 5), 6):
        draw.line([left, y(fifth / 5), right, y(fifth / 5)], fill=GRID)
        draw.text((left - 8, y(fifth / 5)), f"{fifth / 5:.1f}", fill=INK, font=font, anchor="rm")
    step = _tick_step(len(values))
    for frame in range(0, len(values), step):
        draw.line([x(frame), bottom, x(frame), bottom + 4], fill=INK)
        draw.text((x(frame), bottom + 7), str(frame), fill=INK, font=font, anchor="mt")
    draw.text(((left + right) / 2, PLOT_SIZE[1] - 6), "frame", fill=INK, font=font, anchor="mb")
    for frame, value in known.items():
        if frame + 1 in known:
            draw.line([x(frame), y(value), x(frame + 1), y(known[frame + 1])], fill=LINE, width=2)
        elif frame - 1 not in known:  # alone between frames without a face
            draw.ellipse([x(frame) - 2, y(value) - 2, x(frame) + 2, y(value) + 2], fill=LINE)
    draw.rectangle([left, top, right, bottom], outline=INK)
    draw.text((left, 8), f"{title}: {_figures(values, known)}", fill=INK, font=font)
    return image


def _figures(values: Sequence, known: dict[int, float]) -> str:
    """Mean, least and missing in words."""
    if not known:
        return f"no face found in any of {len(values)} frames"
    worst = min(known, key=known.get)
    text = f"mean {sum(known.values()) / len(known):.3f}, least {known[worst]:.3f} in frame {worst}"
    missing = len(values) - len(known)
    return text + (f", no face found in {missing} of {len(values)} frames" if missing else "")


def _tick_step(count: int) -> int:
    """The least of 1, 2, 5, 10, 20 … that leaves at most so many ticks."""
    steps = (digit * 10**power for power in range(12) for digit in (1, 2, 5))
    return next(step for step in steps if -(-count // step) <= MOST_TICKS)


def draw_contact_sheet(
    name: str,
    photo: Image.Image,
    driver: Sequence[Image.Image] | None,
    skeletons: Sequence[Image.Image] | None,
    result: Sequence[Image.Image],
) -> Image.Image:
    """Photo, and driver (without one, skeletons) and result at a few moments, RGB; see `contact_sheet`."""
    return contact_sheet([Case(name=name, result=result, driver=driver, poses=skeletons, photo=photo)])
