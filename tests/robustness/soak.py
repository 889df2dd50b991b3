"""Long work in one process: what it holds must not grow with it.

    python -m tests.robustness.soak clips 300
    python -m tests.robustness.soak frames 10000

makes so many clips, or one clip of so many frames of 64×64, and prints what the process holds on the way.
"""

import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from animation.clip.flow import Models, make_clip
from animation.media.writing import AnimationWriter, write_mp4
from tests import synthetic
from tests.clips import clip_settings, write_keypoints
from tests.pose_models import write_models
from tests.test_prepare_data import somebody


@dataclass(frozen=True)
class Held:
    """What this process holds: bytes of memory, open files, threads, and files in the folder of temporary ones."""

    memory: int
    files: int
    threads: int
    temporary: int

    @classmethod
    def now(cls) -> "Held":
        """At this moment."""
        process = psutil.Process()
        temporary = len(os.listdir(tempfile.gettempdir()))  # noqa: PTH208  of names alone
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads(), temporary)


def peak(work: Callable[[], Any]) -> int:
    """The most bytes that this process holds while it works."""
    most, process, done = 0, psutil.Process(), threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most


def slope(values: list[float]) -> float:
    """How much a series grows from one to the next, over its last half."""
    half = values[len(values) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 1 else 0.0


def make_clips(folder: Path, count: int) -> Iterator[Held]:
    """Make a clip of two frames so many times, in one load of the networks."""
    checkpoint, case = synthetic.write_checkpoint(folder / "checkpoint"), synthetic.write_case(folder / "case")
    driver = write_keypoints(folder / "keypoints.npz", 2)
    models = Models()
    for number in range(count):
        options = {"video": str(driver), "output": str(folder / f"out-{number % 3}"), "num_inference_steps": 1}
        settings = clip_settings(folder, checkpoint, case, seed=number, **options).resolve()
        make_clip(settings, settings.read_inputs(), models)
        yield Held.now()


def make_long_clip(folder: Path, frames: int, models: Models) -> Path:
    """Make one clip of a video of so many frames, one step each, as PNGs, GIF and MP4; its folder."""
    checkpoint, case, dwpose = folder / "checkpoint", folder / "case", folder / "dwpose"
    if not checkpoint.exists():
        synthetic.write_checkpoint(checkpoint)
        synthetic.write_case(case)
        write_models(dwpose)
    driver = folder / f"{frames}.mp4"
    walk = [somebody(synthetic.draw_person((64, 64), swing / 5, skeleton=False)) for swing in range(5)]
    write_mp4(driver, itertools.islice(itertools.cycle(walk), frames), 10)
    options = {"video": str(driver), "dwpose_models": str(dwpose), "num_inference_steps": 1, "tile_size": 16}
    settings = clip_settings(folder, checkpoint, case, gif=True, decode_chunk_size=8, **options)
    settings = replace(settings, output=str(folder / f"out-{frames}")).resolve()
    make_clip(settings, settings.read_inputs(), models)
    return Path(settings.output)


def write_frames(folder: Path, count: int, size: int = 128, **formats: bool) -> None:
    """Write so many frames of random numbers, in the formats that are wanted."""
    frame = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    with AnimationWriter(folder, count, 10, **formats) as writer:
        for number in range(count):
            writer.write(np.roll(frame, number, axis=1)[None])


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    what, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "clips":
            held = []
            for number, at_hand in enumerate(make_clips(folder, count), 1):
                held.append(at_hand)
                if number % 25 == 0 or number == count:
                    grown = slope([float(each.memory) for each in held]) * 100 / 2**20
                    print(f"{number} clips: {at_hand}, {grown:.2f} MB a hundred clips over the last half", flush=True)
            return
        models = Models()
        held = {}
        for frames in (count // 2, count):
            began = time.monotonic()
            held[frames] = peak(lambda frames=frames: make_long_clip(folder, frames, models))
            print(f"{frames} frames: {held[frames] / 2**20:.0f} MB, {time.monotonic() - began:.0f} s", flush=True)
        grown = (held[count] - held[count // 2]) / (count - count // 2)
        print(f"{grown / 1024:.1f} kB a frame more over the last half")


if __name__ == "__main__":
    main()
