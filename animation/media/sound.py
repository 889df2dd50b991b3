"""The driver's sound, laid along the clip's pictures and written into its MP4 as AAC."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from animation.errors import InputError

logger = logging.getLogger(__name__)

RATE = 48000  # samples a second, whatever the driver's
BIT_RATE = 160_000  # of the AAC track
LOOSE = 0.02  # seconds that a packet's time may be off the samples before it: beyond is a gap or an overlap
RUN_UP = 1.0  # seconds decoded before the part that is wanted, so that the decoder is warm


@dataclass(frozen=True)
class Sound:
    """Sound from the clip's first picture on.

    Attributes:
        samples: (channels, N) int16, `RATE` a second, one channel or two.
    """

    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.shape[1] / RATE

    def part(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` … `stop` − 1, (channels, stop − start); silence beyond the end."""
        part = self.samples[:, start:stop]
        return np.pad(part, ((0, 0), (0, stop - start - part.shape[1])))


def load_sound(path: str | Path, start: float = 0.0, seconds: float | None = None, repeats: int = 1) -> Sound | None:
    """Read the sound that belongs to a part of a driver.

    Its times are counted as those of the pictures, from the first picture of the file. Gaps become silence, more than
    two channels become two. Where it is damaged it is silent from there, and the log says so.

    Args:
        path: a video or sound file.
        start: seconds from the video's beginning to the clip's first picture.
        seconds: of the driver that the clip shows once: its frames divided by their rate. What is missing there is
            silence. None: to the end of the sound.
        repeats: how many times the clip shows that part, one after the other (`--loop`).

    Returns:
        None, and a line in the log, where the file has no sound, or none in that part.

    Raises:
        InputError: the file cannot be opened, or a number is out of its range.
    """
    if not (start >= 0 and (seconds is None or seconds > 0) and repeats >= 1):
        raise InputError(f"no such part of a sound: start {start}, seconds {seconds}, repeats {repeats}")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: its sound cannot be read ({reason}); give another driver") from None
    with container:
        if not container.streams.audio:
            logger.info("%s: has no sound, nor will the clip", path)
            return None
        samples = _read(container, path, start, seconds)
    if samples is None:
        logger.warning("%s: has a sound track, but no sound in this part; nor will the clip", path)
        return None
    if seconds is not None:
        samples = Sound(samples).part(0, round(seconds * RATE))
    return Sound(np.tile(samples, repeats))


def _read(container, path: str | Path, start: float, seconds: float | None) -> np.ndarray | None:
    """(channels, N) of the part, from its first sample on; None where there is nothing."""
    stream = container.streams.audio[0]
    origin = 0.0
    if container.streams.video:
        video = container.streams.video[0]
        origin = float((video.start_time or 0) * video.time_base)
    end = float("inf") if seconds is None else start + seconds
    pieces: list[tuple[int, np.ndarray]] = []  # where each lies in the part, (channels, n)
    resampler, cursor, time = None, None, start
    try:
        if start > RUN_UP:
            container.seek(round((start - RUN_UP + origin) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            time = frame.time - origin if frame.time is not None else time
            if time >= end:
                break
            if resampler is None:
                layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                resampler = av.AudioResampler(format="s16p", layout=layout, rate=RATE)
            place = round((time - start) * RATE)
            if cursor is None or abs(place - cursor) > LOOSE * RATE:
                cursor = place
            for part in resampler.resample(frame):
                pieces.append((cursor, part.to_ndarray()))
                cursor += part.samples
        for part in resampler.resample(None) if resampler is not None else ():
            pieces.append((cursor, part.to_ndarray()))
            cursor += part.samples
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: its format changes on the way
        reason = getattr(error, "strerror", None) or error
        logger.warning("%s: its sound is damaged at %.2f s (%s), and silent from there", path, max(time, 0), reason)
    return _laid_out(pieces, None if seconds is None else round(seconds * RATE))


def _laid_out(pieces: list[tuple[int, np.ndarray]], length: int | None) -> np.ndarray | None:
    """Pieces of (channels, n) at their places from 0 to `length`, silence between them; None where none is there."""
    last = max((place + piece.shape[1] for place, piece in pieces), default=0)
    length = last if length is None else min(length, last)
    if length <= 0:
        return None
    samples = np.zeros((pieces[0][1].shape[0], length), np.int16)
    for place, piece in pieces:
        begin, stop = max(place, 0), min(place + piece.shape[1], length)
        if begin < stop:
            samples[:, begin:stop] = piece[:, begin - place : stop - place]
    return samples


def _frame(samples: np.ndarray, start: int) -> av.AudioFrame:
    """Samples, (channels, n), that begin with number `start`, as FFmpeg takes them."""
    layout = "mono" if len(samples) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16p", layout=layout)
    frame.rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
    return frame


class SoundTrack:
    """The AAC track of a container that is being written; the sound goes along with the pictures.

    It ends with the pictures: a longer sound is cut off, a shorter one goes on as silence.

    Args:
        container: an open PyAV output, before anything is written to it.
        sound: what to write.
    """

    def __init__(self, container, sound: Sound):
        self._container, self._sound = container, sound
        layout = "mono" if len(sound.samples) == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=RATE, layout=layout)
        self._stream.bit_rate = BIT_RATE
        self._written = 0

    def write_until(self, time: float | Fraction) -> None:
        """Write the sound up to a time in seconds from the clip's beginning."""
        stop = round(time * RATE)
        if stop > self._written:
            frame = _frame(self._sound.part(self._written, stop), self._written)
            self._container.mux(self._stream.encode(frame))
            self._written = stop

    def close(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
