"""Video out: PNG frames, a GIF and an MP4, written by threads while the next frames are made."""

import contextlib
import itertools
import os
import queue
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.files import refuse_links
from animation.media.sound import RATE as SOUND_RATE
from animation.media.sound import Sound

FRAMES_FOLDER, GIF_FILE, MP4_FILE = "animated_images", "animated_images.gif", "animation.mp4"
PARTIAL_FOLDER = ".partial"  # results grow here and move to their places when all are whole
SOUND_BIT_RATE = 160_000
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
    """Write an endless GIF from frames of (H, W, 3) uint8 RGB, one palette a frame, one frame after the other.

    The octree palette takes a hundredth of the default's time: writing keeps up with decoding.
    """
    first = next(frames_rgb, None)
    if first is None:
        return
    durations = gif_durations(num_frames, fps)
    options = {"loop": "0", "final_delay": str(durations[-1] // 10)}
    with av.open(str(path), "w", "gif", options=options) as container:
        stream: Any = container.add_stream(
            "gif", rate=100, options={"gifflags": "-transdiff"}
        )  # no colour for "as before"
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "pal8"
        time = 0
        for frame, duration in zip(itertools.chain([first], frames_rgb), durations, strict=True):
            image = Image.fromarray(frame).quantize(method=Image.Quantize.FASTOCTREE)
            palette = np.zeros((256, 4), np.uint8)  # alpha, red, green, blue
            colours = np.array(image.getpalette()).reshape(-1, 3)
            palette[:, 0], palette[: len(colours), 1:] = 255, colours
            pixels: Any = (np.asarray(image), palette)  # as PyAV has them, against its hints
            picture = av.VideoFrame.from_ndarray(pixels, format="pal8")
            picture.pts, picture.time_base = time, Fraction(1, 100)
            time += duration // 10
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def write_mp4(path: Path, frames_rgb: Iterator[np.ndarray], fps: float, sound: Sound | None = None) -> None:
    """Write frames of (H, W, 3) uint8 RGB, H and W even, as H.264 in yuv420p, which every player reads.

    Where there is sound it is AAC, from the first frame to the last: a longer one is cut off, a shorter one goes on as
    silence.
    """
    rate = Fraction(fps).limit_denominator(1001)
    first = next(frames_rgb, None)
    if first is None:
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        heard: Iterator = itertools.repeat(None)
        if sound is not None:
            track = container.add_stream("aac", rate=SOUND_RATE, layout=sound.layout)
            track.bit_rate, heard = SOUND_BIT_RATE, sound.frames(rate)
        for frame, part in zip(itertools.chain([first], frames_rgb), heard, strict=False):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if part is not None:
                container.mux(track.encode(part))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(track.encode(None))


class AnimationWriter:
    """Writes frames as `animated_images/frame_%d.png`, `animated_images.gif` and `animation.mp4`.

    A context manager: on a clean exit all files move to their places, each of them whole; on an error none appears and
    what an earlier run wrote stays.

    Args:
        output_dir: made where missing.
        num_frames: how many will be written.
        png, gif, mp4: which formats to write.
        sound: of the MP4.

    Attributes:
        outputs: the names of what is written, relative to the output folder.

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
        self.num_frames, self.fps, self.sound = num_frames, fps, sound
        self.outputs = [name for name, wanted in ((FRAMES_FOLDER, png), (GIF_FILE, gif), (MP4_FILE, mp4)) if wanted]
        check_writable(self.output_dir, FRAMES_FOLDER, PARTIAL_FOLDER)

    def __enter__(self) -> Self:
        shutil.rmtree(self.partial, ignore_errors=True)
        (self.partial / FRAMES_FOLDER).mkdir(parents=True)
        self.count = 0
        self._pool = ThreadPoolExecutor(2 + min(4, os.cpu_count() or 1))  # GIF, MP4, and some for PNG
        self._pictures: deque[Future] = deque()
        self._videos: list[tuple[queue.Queue, Future]] = []
        if GIF_FILE in self.outputs:
            self._feed(write_gif, GIF_FILE, self.num_frames, self.fps)
        if MP4_FILE in self.outputs:
            self._feed(write_mp4, MP4_FILE, self.fps, self.sound)
        return self

    def _feed(self, write: Callable, name: str, *options: object) -> None:
        """Start a thread that writes the frames which are put in its queue, until None is."""
        frames: queue.Queue = queue.Queue(QUEUE_FRAMES)

        def waiting() -> Iterator[np.ndarray]:
            while (frame := frames.get()) is not None:
                yield frame

        self._videos.append((frames, self._pool.submit(write, self.partial / name, waiting(), *options)))

    def write(self, frames_rgb: np.ndarray) -> None:
        """Queue frames, (n, H, W, 3) uint8 RGB; they must not change afterwards. Raises what stopped a writer."""
        for frame in frames_rgb:
            if FRAMES_FOLDER in self.outputs:
                path = self.partial / FRAMES_FOLDER / f"frame_{self.count}.png"
                self._pictures.append(self._pool.submit(write_png, path, frame))
            self._hand_over(frame)
            self.count += 1
        while len(self._pictures) > QUEUE_FRAMES:
            self._pictures.popleft().result()

    def _hand_over(self, frame: np.ndarray | None) -> None:
        """Put a frame, or None for the end, in the queues of all writers, waiting while one is full."""
        for frames, written in self._videos:
            while not written.done():
                with contextlib.suppress(queue.Full):
                    frames.put(frame, timeout=0.1)
                    break
            else:
                if frame is not None:
                    written.result()

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            self._hand_over(None)
            self._pool.shutdown(cancel_futures=error_type is not None)
            if error_type is None:
                for written in (*self._pictures, *(written for _, written in self._videos)):
                    written.result()
                for name in self.outputs:
                    if name == FRAMES_FOLDER:
                        publish_frames(self.partial / name, self.output_dir / name, self.count)
                    elif self.count:
                        (self.partial / name).replace(self.output_dir / name)
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)


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

    Several processes may ask at once: the probe is a file without a name, and no folder is made.

    Args:
        folder: of the output; it may be a symbolic link.
        inner: what a run writes in it, folders by relative paths; they may not.
    """
    refuse_links(folder, inner)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another output folder") from None
