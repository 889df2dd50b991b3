"""Video out: PNG frames, a GIF and an MP4, written by threads while the next frames are made."""

import contextlib
import itertools
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.files import refuse_links
from animation.media.sound import Sound, SoundTrack

logger = logging.getLogger(__name__)

FRAMES_FOLDER = "animated_images"
PARTIAL_FOLDER = ".partial"  # results grow here and move to their places when all are whole
QUEUE_FRAMES = 32  # frames that may wait for a writer before the maker of frames waits for it


def write_png(path: Path, frame_rgb: np.ndarray) -> None:
    """Write one frame, (H, W, 3) uint8 RGB, lossless: a third of the default level's time for a tenth more bytes."""
    Image.fromarray(frame_rgb).save(path, compress_level=1)


def gif_durations(num_frames: int, fps: float) -> list[int]:
    """Milliseconds that each frame stays. GIF counts in hundredths of a second: rounded so that the total is right.

    Players slow frames shorter than 2 hundredths down, so that is the least.
    """
    ticks = [round(100 * k / fps) for k in range(num_frames + 1)]
    return [10 * max(2, after - before) for before, after in itertools.pairwise(ticks)]


def write_gif(path: Path, frames_rgb: Iterator[np.ndarray], num_frames: int, fps: float) -> None:
    """Write an endless GIF from frames of (H, W, 3) uint8 RGB, one palette a frame.

    The octree palette takes a hundredth of the default's time: writing keeps up with decoding.
    """
    images = (Image.fromarray(frame).quantize(method=Image.Quantize.FASTOCTREE) for frame in frames_rgb)
    first = next(images, None)
    if first is not None:
        first.save(path, save_all=True, append_images=images, duration=gif_durations(num_frames, fps), loop=0)


def write_mp4(path: Path, frames_rgb: Iterator[np.ndarray], fps: float, sound: Sound | None = None) -> None:
    """Write H.264 in yuv420p, which every player reads, and AAC where there is sound.

    Args:
        path: where to.
        frames_rgb: (H, W, 3) uint8 RGB each, H and W even.
        fps: frames a second.
        sound: from the first frame on; it ends with the last.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = track = None
        for number, frame in enumerate(frames_rgb, 1):
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "16", "preset": "medium"}
                track = SoundTrack(container, sound) if sound is not None else None
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if track is not None:
                track.write_until(number / rate)
        if stream is not None:
            container.mux(stream.encode(None))
        if track is not None:
            track.close()


class _Feed:
    """A thread that runs `consume(frames)`, where `frames` yields what is put, until it is closed."""

    _END = object()

    def __init__(self, consume: Callable[[Iterator[np.ndarray]], None]):
        self.queue: queue.Queue = queue.Queue(QUEUE_FRAMES)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(consume,), daemon=True)
        self.thread.start()

    def _run(self, consume) -> None:
        frames = self._frames()
        try:
            consume(frames)
        except BaseException as error:  # handed to the thread that puts
            self.error = error
            for _ in self._frames():  # `put` must not wait for ever
                pass

    def _frames(self) -> Iterator[np.ndarray]:
        while (frame := self.queue.get()) is not self._END:
            yield frame

    def put(self, frame: np.ndarray) -> None:
        """Hand over a frame, waiting while the queue is full; raise what stopped the thread."""
        if self.error is not None:
            raise self.error
        self.queue.put(frame)

    def close(self) -> None:
        """Wait until all frames are consumed; raise what stopped the thread."""
        self.queue.put(self._END)
        self.thread.join()
        if self.error is not None:
            raise self.error


class AnimationWriter:
    """Writes frames as `animated_images/frame_%d.png`, `animated_images.gif` and `animation.mp4`.

    A context manager: on a clean exit all files move to their places, each of them whole; on an error none appears and
    what an earlier run wrote stays.

    Args:
        output_dir: made where missing.
        num_frames: how many will be written.
        fps: frames a second, above 0.
        png, gif, mp4: which formats to write.
        sound: of the MP4.

    Raises:
        InputError: the folder cannot be written to, or fps is not above 0.
    """

    def __init__(
        self,
        output_dir: str | Path,
        num_frames: int,
        fps: float,
        png: bool = True,
        gif: bool = True,
        mp4: bool = True,
        sound: Sound | None = None,
    ):
        if not fps > 0:
            raise InputError(f"fps {fps} is not above 0; give the frames a second of the video")
        self.output_dir = Path(output_dir)
        self.partial = self.output_dir / PARTIAL_FOLDER
        self.num_frames, self.fps = num_frames, fps
        self.png, self.gif, self.mp4, self.sound = png, gif, mp4, sound
        check_writable(self.output_dir, FRAMES_FOLDER, PARTIAL_FOLDER)

    def __enter__(self):
        shutil.rmtree(self.partial, ignore_errors=True)
        (self.partial / FRAMES_FOLDER).mkdir(parents=True)
        self.count = 0
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self._pending: list = []
        self._feeds = []
        if self.gif:
            gif = self.partial / "animated_images.gif"
            self._feeds.append(_Feed(lambda frames: write_gif(gif, frames, self.num_frames, self.fps)))
        if self.mp4:
            mp4 = self.partial / "animation.mp4"
            self._feeds.append(_Feed(lambda frames: write_mp4(mp4, frames, self.fps, self.sound)))
        return self

    def write(self, frames_rgb: np.ndarray) -> None:
        """Queue frames, (n, H, W, 3) uint8 RGB; they must not change afterwards."""
        for frame in frames_rgb:
            if self.png:
                path = self.partial / FRAMES_FOLDER / f"frame_{self.count}.png"
                self._pending.append(self._pool.submit(write_png, path, frame))
            for feed in self._feeds:
                feed.put(frame)
            self.count += 1
        while len(self._pending) > QUEUE_FRAMES:
            self._pending.pop(0).result()

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._pool.shutdown, cancel_futures=error_type is not None)
                for feed in self._feeds:
                    stack.callback(feed.close)
                if error_type is None:
                    for future in self._pending:
                        future.result()
            if error_type is None:
                self._publish()
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _publish(self) -> None:
        if self.png:
            publish_frames(self.partial / FRAMES_FOLDER, self.output_dir / FRAMES_FOLDER, self.count)
        for name, wanted in (("animated_images.gif", self.gif), ("animation.mp4", self.mp4)):
            if wanted and self.count:
                (self.partial / name).replace(self.output_dir / name)

    @property
    def outputs(self) -> list[str]:
        """The names of what is written, relative to the output folder."""
        wanted = ((FRAMES_FOLDER, self.png), ("animated_images.gif", self.gif), ("animation.mp4", self.mp4))
        return [name for name, written in wanted if written]


def publish_frames(source: Path, folder: Path, count: int) -> None:
    """Move frame_0.png … of `source` to `folder`, and remove those of an earlier, longer video there."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (source / f"frame_{i}.png").replace(folder / f"frame_{i}.png")
    for path in folder.glob("frame_*.png"):
        number = path.stem.removeprefix("frame_")
        if number.isdecimal() and int(number) >= count:
            path.unlink()


def check_writable(folder: Path, *inner: str) -> None:
    """Prove that a folder can be made and written to, leaving nothing behind, or raise InputError.

    Args:
        folder: of the output; it may be a symbolic link.
        inner: what a run writes in it, folders by relative paths; they may not.
    """
    refuse_links(folder, inner)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f"{PARTIAL_FOLDER}-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        for path in made:
            path.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another output folder") from None
