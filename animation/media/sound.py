"""The driver's sound, laid along the clip's pictures."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from animation.errors import InputError
from animation.media.containers import open_container

logger = logging.getLogger(__name__)

RATE = 48000  # samples a second, whatever the driver's
LOOSE = 0.02  # seconds that a packet's time may be off the samples before it: beyond is a gap or an overlap
RUN_UP = 1.0  # seconds decoded before the part that is wanted, so that the decoder is warm


@dataclass(frozen=True)
class Sound:
    """Sound from the clip's first picture on.

    Attributes:
        samples: (channels, N) int16, `RATE` a second, one channel or two.
        repeats: how many times they are heard, one after the other.
    """

    samples: np.ndarray
    repeats: int = 1

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.repeats * self.samples.shape[1] / RATE

    @property
    def layout(self) -> str:
        """FFmpeg's name of its channels."""
        return "mono" if len(self.samples) == 1 else "stereo"

    def part(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` … `stop` − 1, (channels, stop − start); silence beyond the end."""
        places = np.arange(start, stop)
        heard = places < self.repeats * self.samples.shape[1]
        return self.samples.take(places, axis=1, mode="wrap") * heard.astype(np.int16)

    def frames(self, rate: Fraction) -> Iterator[av.AudioFrame]:
        """What is heard during one picture after the other, of so many a second, for FFmpeg; it never ends."""
        for number in itertools.count():
            start, stop = round(number / rate * RATE), round((number + 1) / rate * RATE)
            samples = np.ascontiguousarray(self.part(start, stop))
            frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout=self.layout)
            frame.rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            yield frame


def load_sound(path: str | Path, start: float, seconds: float, repeats: int = 1) -> Sound | None:
    """Read the sound that belongs to a part of a driver.

    Its times are counted as those of the pictures, from the first picture of the file. Gaps become silence, more than
    two channels become two. Where it is damaged it is silent from there, and the log says so.

    Args:
        path: a video or sound file.
        start: seconds from the video's beginning to the clip's first picture.
        seconds: of the driver that the clip shows once: its frames divided by their rate. What is missing is silence.
        repeats: how many times the clip shows that part, one after the other (`--loop`).

    Returns:
        None, and a line in the log, where the file has no sound, or none in that part.

    Raises:
        InputError: the file cannot be opened, or a number is out of its range.
    """
    if not (start >= 0 and seconds > 0 and repeats >= 1):
        raise InputError(f"no such part of a sound: start {start}, seconds {seconds}, repeats {repeats}")
    try:
        container = open_container(path)
    except Exception as error:  # PyAV's, and Pillow's of an animated WebP
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: its sound cannot be read ({reason}); give another driver") from None
    with container:
        if not container.streams.audio:
            logger.info(f"{path}: has no sound, nor will the clip")
            return None
        pieces = _read(container, path, start, start + seconds)
    if not any(place + piece.shape[1] > 0 for place, piece in pieces):
        logger.warning(f"{path}: has a sound track, but no sound in this part; nor will the clip")
        return None
    samples = np.zeros((len(pieces[0][1]), round(seconds * RATE)), np.int16)
    for place, piece in pieces:
        room = samples[:, max(place, 0) : max(place + piece.shape[1], 0)]
        room[:] = piece[:, max(-place, 0) :][:, : room.shape[1]]
    return Sound(samples, repeats)


def _read(container: Any, path: str | Path, start: float, end: float) -> list[tuple[int, np.ndarray]]:
    """What is heard up to the end, (channels, n) each, and the sample of the part, which begins at 0, where it lies."""
    stream = container.streams.audio[0]
    video = container.streams.video[0] if container.streams.video else None
    origin = float((video.start_time or 0) * video.time_base) if video else 0.0
    pieces: list[tuple[int, np.ndarray]] = []
    resampler, cursor, time = None, 0, start
    try:
        if start > RUN_UP:
            container.seek(round((start - RUN_UP + origin) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            time = frame.time - origin if frame.time is not None else time
            if time >= end:
                break
            place = round((time - start) * RATE)
            if resampler is None:
                layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                resampler, cursor = av.AudioResampler(format="s16p", layout=layout, rate=RATE), place
            if abs(place - cursor) > LOOSE * RATE:
                cursor = place
            for part in resampler.resample(frame):
                pieces.append((cursor, part.to_ndarray()))
                cursor += part.samples
        for part in resampler.resample(None) if resampler is not None else ():
            pieces.append((cursor, part.to_ndarray()))
            cursor += part.samples
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: its format changes on the way
        reason = getattr(error, "strerror", None) or error
        logger.warning(f"{path}: its sound is damaged at {max(time, 0):.2f} s ({reason}), and silent from there")
    return pieces
