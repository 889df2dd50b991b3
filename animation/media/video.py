"""Frames in, from a video file or a folder, at the rate and from the part that is wanted."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np

from animation.errors import InputError
from animation.media.containers import LARGEST_FRAME, open_container
from animation.media.images import FrameFolder, counted

logger = logging.getLogger(__name__)

Seconds = float | None  # from a driver's beginning; None for its own beginning or end
FOLDER_FPS = 30.0  # of a frame folder, which does not say
LARGEST_FPS = 240
LONGEST = 24 * 3600  # seconds of a driver that may be asked for
TIME_TOLERANCE = 1e-6  # seconds
INDEXED = ("mov", "matroska", "avi")  # FFmpeg's formats in which a frame is found by its time; others are read through
LONGEST_GAP = 4.5  # frames between two neighbours, before it is told
MISSING_END = 0.2  # seconds, beside two frames, that may be missing at the end of what a file declares


class VideoFrames:
    """A video file's frames as upright RGB arrays, decoded anew at each iteration.

    Args:
        path: any container and codec that PyAV reads.
        start, end: the part that is wanted.
        stride: take every so many-th frame.
        fps: take frames at this rate, repeating or leaving out some; None for all of them.

    Attributes:
        size: width and height, pixels, after the rotation that the file asks for.
        fps: frames a second of what is iterated.
        estimated_length: about how many frames there will be; None where the file does not say.

    Raises:
        InputError: no such file, not a video, no video stream, damaged, no frame in the part that is wanted, or
            a setting out of its range. Damage further on is raised by the iteration, with its place.
    """

    def __init__(
        self, path: str | Path, start: Seconds = None, end: Seconds = None, stride: int = 1, fps: float | None = None
    ):
        self.path = Path(path)
        check_part(start, end, stride, fps)
        if not self.path.is_file():
            raise InputError(f"{path}: no such video; give the path of a video file")
        self.start, self.end, self.stride, self._fps = start or 0.0, end, stride, fps
        self.size: tuple[int, int] | None = None
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0) or FOLDER_FPS
            self._frame_seconds = 1 / rate
            duration = float(stream.duration * stream.time_base) if stream.duration else None
            if duration is None and container.duration:
                duration = (container.duration - (container.start_time or 0)) / av.time_base
        self.fps = (fps or rate) / stride
        seconds = None if duration is None else min(duration, end or duration) - self.start
        self.estimated_length = None if seconds is None else max(1, round(seconds * self.fps))
        first = next(iter(self), None)
        if first is None:
            part = f"between {self.start:g} s and {'its end' if end is None else f'{end:g} s'}"
            lasts = "an unknown time" if duration is None else f"{duration:.2f} s"
            raise InputError(f"{path}: no frame {part}; it lasts {lasts}")
        self.size = first.shape[1], first.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, one after the other."""
        for number, image in enumerate(itertools.islice(self._timed(), 0, None, self.stride)):
            pixels = image.to_ndarray(format="rgb24")
            frame = np.ascontiguousarray(np.rot90(pixels, round((image.rotation or 0) / 90)))
            height, width = frame.shape[:2]
            if self.size is not None and (width, height) != self.size:
                raise InputError(
                    f"{self.path}: frame {number} is {width}×{height} pixels and those before it "
                    f"{self.size[0]}×{self.size[1]}; cut the video there"
                )
            yield frame

    def describe(self) -> dict:
        """What tells this part of this file from another, JSON values."""
        status = self.path.stat()
        part = [self.start, self.end, self.stride, self._fps]
        return {"name": self.path.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns, "part": part}

    def has_even_rate(self) -> bool:
        """Whether no frame of the file lies further than one frame from where an even rate would have it.

        Where not, the frames one after the other run away from the sound: take them at a rate, `fps`. Decodes nothing;
        a file that does not say when its frames are counts as even. Raises InputError where it is damaged.
        """
        with self._open() as container:
            stream = container.streams.video[0]
            try:
                times = [packet.pts for packet in container.demux(stream) if packet.size]
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise self._unreadable(error) from None
            rate = stream.average_rate or stream.guessed_rate
            if not times or rate is None or None in times:
                return True
            ticks = np.sort(np.array(times, float)) * float(stream.time_base * rate)
        return bool((np.abs(ticks - ticks[0] - np.arange(len(ticks))) <= 1).all())

    def _timed(self) -> Iterator[av.VideoFrame]:
        """The frames of the part that is wanted, at the rate that is wanted."""
        if self._fps is None:
            yield from (image for time, image in self._decoded() if time >= self.start - TIME_TOLERANCE)
            return
        ticks = (self.start + k / self._fps for k in itertools.count())
        tick, shown, time = next(ticks), None, 0.0
        for time, image in self._decoded():
            while shown is not None and tick < time - TIME_TOLERANCE:
                yield shown
                tick = next(ticks)
            shown = image
        last = min(time + self._frame_seconds, self.end or math.inf)
        while shown is not None and tick < last - TIME_TOLERANCE:
            yield shown
            tick = next(ticks)

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Times in seconds and frames, from the last key frame before the start."""
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            origin = float((stream.start_time or 0) * stream.time_base)
            time = self.start - self._frame_seconds
            try:
                if self.start and container.format.name.split(",")[0] in INDEXED:
                    container.seek(round((self.start + origin) / stream.time_base), stream=stream)
                for image in container.decode(stream):
                    before, time = time, time + self._frame_seconds if image.time is None else image.time - origin
                    if time - before > LONGEST_GAP * self._frame_seconds and before >= self.start:
                        logger.warning(
                            f"{self.path}: no frames between {before:.2f} and {time:.2f} s: it is damaged, or of a "
                            "variable rate, which --fps makes even"
                        )
                    if self.end is not None and time >= self.end - TIME_TOLERANCE:
                        return
                    yield time, image
            except (av.error.FFmpegError, OSError) as error:
                place = f"{max(time, 0):.2f}"
                raise InputError(
                    f"{self.path}: damaged at {place} s ({error.strerror}); make it again, or stop before it with "
                    f"--end {place}"
                ) from None
            declared = _declared_seconds(stream)
            time += self._frame_seconds
            if declared is not None and time < declared - MISSING_END - 2 * self._frame_seconds:
                raise InputError(
                    f"{self.path}: broken off at {time:.2f} s of {declared:.2f} s; make it again, or take what is "
                    f"there with --end {time:.2f}"
                )

    def _open(self) -> Any:
        try:
            container = open_container(self.path)
        except Exception as error:  # PyAV's, and Pillow's of an animated WebP
            raise self._unreadable(error) from None
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise InputError(f"{self.path}: no video stream in it, only {kinds}; give a file with pictures")
        codec = container.streams.video[0].codec_context
        problem = "of an unknown codec; convert it to MP4" if codec is None else ""
        if codec is not None and codec.width * codec.height > LARGEST_FRAME:
            problem = f"of {codec.width}×{codec.height} pixels; scale it to at most {LARGEST_FRAME >> 20} million"
        if problem:
            container.close()
            raise InputError(f"{self.path}: frames {problem}")
        codec.options = {"max_pixels": str(LARGEST_FRAME)}  # where the size changes further on
        return container

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or error
        return InputError(f"{self.path}: not a readable video ({reason}); give a video file such as MP4")


class FolderFrames:
    """A folder's numbered frames as RGB arrays, with the interface of `VideoFrames`; `size` is the first one's.

    Args:
        folder: PNG and JPEG files, in the order of the numbers in their names.
        start, end, stride: as of `VideoFrames`.
        fps: the rate at which the frames were taken; None for 30.

    Attributes:
        folder: all its frames.
        numbers: which of them, counted from 0, are iterated.

    Raises:
        InputError: as `FrameFolder`; no frame in the part; a setting out of its range.
    """

    def __init__(
        self, folder: str | Path, start: Seconds = None, end: Seconds = None, stride: int = 1, fps: float | None = None
    ):
        check_part(start, end, stride, fps)
        self.folder = FrameFolder(folder)
        rate, count = fps or FOLDER_FPS, len(self.folder)
        first, stop = (start or 0) - TIME_TOLERANCE, math.inf if end is None else end - TIME_TOLERANCE
        self.numbers = [i for i in range(count) if first <= i / rate < stop][::stride]
        if not self.numbers:
            raise InputError(
                f"{folder}: no frame in the part that is wanted; {counted(count, 'frame')} at {rate:g} a second take "
                f"{count / rate:.2f} s"
            )
        sizes = [self.folder.frame_sizes[i] for i in self.numbers]
        if len(set(sizes)) > 1:
            told = ", ".join(f"{width}×{height}" for width, height in sorted(set(sizes)))
            logger.info(f"{folder}: frames of several sizes ({told}); key points are shares of each frame's own")
        self.size = sizes[0]
        self.fps = rate / stride
        self.estimated_length = len(self.numbers)
        self._part = [start, end, stride, fps]

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, one after the other."""
        for i in self.numbers:
            yield np.asarray(self.folder[i])

    def describe(self) -> dict:
        """What tells this part of this folder from another, JSON values."""
        files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in self.folder.paths]
        return {"files": files, "part": self._part}


def check_part(start: Seconds, end: Seconds, stride: int, fps: float | None) -> None:
    """Raise InputError unless the part of a video makes sense: seconds, every so many-th frame, frames a second."""
    if start is not None and not 0 <= start <= LONGEST:
        raise InputError(f"--start {start} is not a time in the video; give seconds from 0 to {LONGEST}")
    if end is not None and not (start or 0) < end <= LONGEST:
        raise InputError(f"--end {end:g} is not after --start {start or 0:g}; give seconds, at most {LONGEST}")
    if stride < 1:
        raise InputError(f"--stride {stride} is below 1; give 1 for every frame")
    if fps is not None and not 0 < fps <= LARGEST_FPS:
        raise InputError(f"--fps {fps} is out of range; give more than 0 and at most {LARGEST_FPS}")


def read_ahead(items: Iterable, buffer: int = 8) -> Generator:
    """Yield `items`, made by a thread ahead of their use; what it raises is raised here."""
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1)
    try:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(buffer))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)  # waits: a library that is still at work when Python ends may abort it
        getattr(iterator, "close", lambda: None)()


def _declared_seconds(stream: Any) -> float | None:
    """How long a video stream says that it is, other streams apart; None where it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")  # Matroska's, by hours, minutes and seconds
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds - float((stream.start_time or 0) * stream.time_base)
