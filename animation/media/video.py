"""Frames in, from a video file or a folder, at the rate and from the part that is wanted."""

import itertools
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from animation.errors import InputError
from animation.media.images import FrameFolder, counted

logger = logging.getLogger(__name__)

FOLDER_FPS = 30.0  # of a frame folder, which does not say
LARGEST_FPS = 240
LONGEST = 24 * 3600  # seconds of a driver that may be asked for
TIME_TOLERANCE = 1e-6  # seconds
LONGEST_GAP = 4.5  # frames between two neighbours, before it is told
MISSING_END = 0.2  # seconds, beside two frames, that may be missing at the end of what a file declares


class VideoFrames:
    """A video file's frames as upright RGB arrays, decoded anew at each iteration.

    Args:
        path: any container and codec that PyAV reads.
        start, end: seconds from the video's beginning; None for all of it.
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
        self,
        path: str | Path,
        start: float | None = None,
        end: float | None = None,
        stride: int = 1,
        fps: float | None = None,
    ):
        self.path = Path(path)
        check_part(start, end, stride, fps)
        if not self.path.is_file():
            raise InputError(f"{path}: no such video; give the path of a video file")
        self.start, self.end, self.stride, self._fps = start or 0.0, end, stride, fps
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0) or FOLDER_FPS
            self._frame_seconds = 1 / rate
            duration = float(stream.duration * stream.time_base) if stream.duration else None
            if duration is None and container.duration:
                duration = (container.duration - (container.start_time or 0)) / av.time_base
        self.fps = (fps or rate) / stride
        self.estimated_length = None
        if duration is not None:
            seconds = min(duration, self.end or duration) - self.start
            self.estimated_length = max(1, round(seconds * self.fps))
        first = next(iter(self), None)
        if first is None:
            part = f"between {self.start:g} s and {'its end' if end is None else f'{end:g} s'}"
            raise InputError(
                f"{path}: no frame {part}; it lasts {'an unknown time' if duration is None else f'{duration:.2f} s'}"
            )
        self.size = first.shape[1], first.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, one after the other."""
        for number, image in enumerate(itertools.islice(self._timed(), 0, None, self.stride)):
            frame = _upright(image)
            if hasattr(self, "size") and (frame.shape[1], frame.shape[0]) != self.size:
                raise InputError(
                    f"{self.path}: frame {number} is {frame.shape[1]}×{frame.shape[0]} pixels and those "
                    f"before it {self.size[0]}×{self.size[1]}; cut the video there"
                )
            yield frame

    def describe(self) -> dict:
        """What tells this part of this file from another, JSON values."""
        status = self.path.stat()
        return {
            "name": self.path.name,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "part": [self.start, self.end, self.stride, self._fps],
        }

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
        last = min(time + self._frame_seconds, self.end or float("inf"))
        while shown is not None and tick < last - TIME_TOLERANCE:
            yield shown
            tick = next(ticks)

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Times in seconds and frames, from the last key frame before the start."""
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            origin = float((stream.start_time or 0) * stream.time_base)
            time = self.start - self._frame_seconds if self.start else -self._frame_seconds
            try:
                if self.start:
                    container.seek(round((self.start + origin) / stream.time_base), stream=stream)
                for image in container.decode(stream):
                    before, time = time, time + self._frame_seconds if image.time is None else image.time - origin
                    if time - before > LONGEST_GAP * self._frame_seconds and before >= self.start:
                        logger.warning(
                            "%s: no frames between %.2f and %.2f s: it is damaged, or of a variable rate, "
                            "which --fps makes even",
                            self.path,
                            before,
                            time,
                        )
                    if self.end is not None and time >= self.end - TIME_TOLERANCE:
                        return
                    yield time, image
            except (av.error.FFmpegError, OSError) as error:
                raise InputError(
                    f"{self.path}: damaged at {max(time, 0):.2f} s ({error.strerror}); make it again, or stop before "
                    f"it with --end {max(time, 0):.2f}"
                ) from None
            declared = _declared_seconds(stream)
            time += self._frame_seconds
            if declared is not None and time < declared - MISSING_END - 2 * self._frame_seconds:
                raise InputError(
                    f"{self.path}: broken off at {time:.2f} s of {declared:.2f} s; make it again, or take "
                    f"what is there with --end {time:.2f}"
                )

    def _open(self):
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: not a readable video ({reason}); give a video file such as MP4") from None
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise InputError(f"{self.path}: no video stream in it, only {kinds}; give a file with pictures")
        return container


class FolderFrames:
    """A folder's numbered frames as RGB arrays, with the interface of `VideoFrames`; `size` is the first one's.

    Args:
        folder: PNG and JPEG files, in the order of the numbers in their names.
        start, end: seconds, counted at `fps`; None for all of it.
        stride: take every so many-th frame.
        fps: the rate at which the frames were taken; None for 30.

    Raises:
        InputError: as `FrameFolder`; no frame in the part; a setting out of its range.
    """

    def __init__(
        self,
        folder: str | Path,
        start: float | None = None,
        end: float | None = None,
        stride: int = 1,
        fps: float | None = None,
    ):
        check_part(start, end, stride, fps)
        self._frames = FrameFolder(folder)
        rate = fps or FOLDER_FPS
        count = len(self._frames)
        self._indices = [
            i for i in range(count) if (start or 0) - 1e-6 <= i / rate < (count if end is None else end - 1e-6)
        ][::stride]
        if not self._indices:
            raise InputError(
                f"{folder}: no frame in the part that is wanted; {counted(count, 'frame')} at {rate:g} a second take "
                f"{count / rate:.2f} s"
            )
        self.size = self._frames.frame_sizes[self._indices[0]]
        sizes = {self._frames.frame_sizes[i] for i in self._indices}
        if len(sizes) > 1:
            told = ", ".join(f"{width}×{height}" for width, height in sorted(sizes))
            logger.info("%s: frames of several sizes (%s); key points are shares of each frame's own", folder, told)
        self.fps = rate / stride
        self.estimated_length = len(self._indices)
        self._part = [start, end, stride, fps]

    @property
    def numbers(self) -> list[int]:
        """Which of the folder's frames, counted from 0, are iterated."""
        return list(self._indices)

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, one after the other."""
        for i in self._indices:
            yield np.asarray(self._frames[i])

    def describe(self) -> dict:
        """What tells this part of this folder from another, JSON values."""
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._frames.paths]
        return {"files": [list(file) for file in files], "part": self._part}


def check_part(start: float | None, end: float | None, stride: int, fps: float | None) -> None:
    """Raise InputError unless the part of a video makes sense: seconds, every so many-th frame, frames a second."""
    if start is not None and not 0 <= start <= LONGEST:
        raise InputError(f"--start {start} is not a time in the video; give seconds from 0 to {LONGEST}")
    if end is not None and not (start or 0) < end <= LONGEST:
        raise InputError(f"--end {end:g} is not after --start {start or 0:g}; give seconds, at most {LONGEST}")
    if stride < 1:
        raise InputError(f"--stride {stride} is below 1; give 1 for every frame")
    if fps is not None and not 0 < fps <= LARGEST_FPS:
        raise InputError(f"--fps {fps} is out of range; give more than 0 and at most {LARGEST_FPS}")


def has_even_rate(path: str | Path) -> bool:
    """Whether no frame of a video lies further than one frame from where an even rate would have it.

    Where not, the frames one after the other run away from the sound: take them at a rate, `VideoFrames(fps=…)`. Reads
    the file without decoding it; a file that does not say when its frames are counts as even.

    Raises:
        InputError: not a readable video.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = [packet.pts for packet in container.demux(stream) if packet.size]
            rate = stream.average_rate or stream.guessed_rate
            if not times or rate is None or None in times:
                return True
            ticks = (np.sort(times) - min(times)) * float(stream.time_base * rate)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable video ({reason}); give a video file such as MP4") from None
    return bool((np.abs(ticks - np.arange(len(ticks))) <= 1).all())


def read_ahead(items: Iterable, buffer: int = 8) -> Iterator:
    """Yield `items`, made by a thread ahead of their use; what it raises is raised here."""
    waiting: queue.Queue = queue.Queue(buffer)
    stopped = threading.Event()

    def put(kind: str, value) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
            else:
                put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            getattr(items, "close", lambda: None)()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()  # a library that is still at work when Python ends may abort it


def _declared_seconds(stream) -> float | None:
    """How long a video stream says that it is, other streams apart; None where it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")  # Matroska's, by hours, minutes and seconds
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds - float((stream.start_time or 0) * stream.time_base)


def _upright(image: av.VideoFrame) -> np.ndarray:
    """RGB, turned as the file asks."""
    pixels = image.to_ndarray(format="rgb24")
    turns = round((image.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
