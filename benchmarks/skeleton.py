"""Frames a second of skeleton extraction, stage by stage: without economies beside ours, in turn in one process.

    python -m benchmarks.skeleton --models_folder checkpoints/DWPose --width 576 --height 1024

Reads a driver of moving figures that it makes itself. Ratios are of medians of pairs; the pixels of both must be equal.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from animation.media.images import FrameFolder
from animation.skeletons.extraction import extract
from animation.skeletons.settings import SkeletonSettings
from benchmarks import naive_skeleton
from DWPose.arrangement import arrange
from DWPose.drawing import draw
from DWPose.recording import load_recording
from DWPose.sessions import DEVICES
from DWPose.wholebody import Wholebody


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, naive: Callable, ours: Callable, pairs: int, frames: int) -> None:
    """Run both in turn and print frames a second and the ratio, its smallest and its largest."""
    naive(), ours()  # warm
    times = [(seconds(naive), seconds(ours)) for _ in range(pairs)]
    ratios = [slow / fast for slow, fast in times]
    rates = [frames / statistics.median(column) for column in zip(*times, strict=True)]
    print(
        f"{name:10} naive {rates[0]:8.1f} frames/s   ours {rates[1]:8.1f} frames/s   "
        f"{statistics.median(ratios):5.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def write_driver(folder: Path, frames: int, width: int, height: int) -> None:
    """Pictures of a figure of discs that moves over a grey slope."""
    slope = np.linspace(60, 160, width).astype(np.uint8)
    rows, columns = np.indices((height, width))
    for number in range(frames):
        image = np.repeat(np.repeat(slope[None], height, axis=0)[..., None], 3, axis=2)
        for part, (x, y, radius) in enumerate(((0.5, 0.25, 0.08), (0.5, 0.5, 0.16), (0.5, 0.75, 0.1))):
            centre = x * width + 0.1 * width * np.sin(number / 5 + part), y * height
            image[np.hypot(columns - centre[0], rows - centre[1]) < radius * height] = (200, 60 * part, 90)
        Image.fromarray(image).save(folder / f"frame_{number}.png")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models_folder", type=Path, help="of the two ONNX files; left out, the tests' stand-ins")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(args, Path(name))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """All stages and the whole, on files in `folder`."""
    models = args.models_folder
    if models is None:
        from tests import pose_models

        models = pose_models.write_models(folder / "models")[0].parent
    paths = models / "yolox_l.onnx", models / "dw-ll_ucoco_384.onnx"
    driver = folder / "driver"
    driver.mkdir()
    write_driver(driver, args.frames, args.width, args.height)
    size = args.width, args.height
    wholebody = Wholebody(*paths, args.device)
    images = [np.asarray(frame) for frame in FrameFolder(driver)]

    def ours(output: str) -> None:
        """The whole extraction."""
        shutil.rmtree(folder / output, ignore_errors=True)
        settings = SkeletonSettings(
            target_image_folder_path=str(driver),
            poses_folder_path=str(folder / output),
            detector_path=str(paths[0]),
            pose_path=str(paths[1]),
            device=args.device,
            alignment="none",
            person="all",
        )
        extract(settings, settings.read_inputs())

    def naive() -> None:
        """One frame after the other, networks loaded as ours loads them."""
        output = folder / "naive"
        output.mkdir(exist_ok=True)
        naive_skeleton.extract(FrameFolder(driver), Wholebody(*paths, args.device), output, size)

    ours("ours")
    drawn = arrange(load_recording(folder / "ours" / "keypoints.npz"), "none", "all").drawn
    people = [(drawn.keypoints[drawn.frames == k], drawn.scores[drawn.frames == k]) for k in range(args.frames)]

    for found in people:
        np.testing.assert_array_equal(draw(*found, *size), naive_skeleton.draw(*found, *size))
    print(f"{args.frames} frames of {args.width}×{args.height}; pixels of both equal")
    for stage, work in (
        ("reading", lambda: [np.asarray(frame) for frame in FrameFolder(driver)]),
        ("detecting", lambda: [wholebody.detector(image) for image in images]),
        ("estimating", lambda: [wholebody.estimate(image, np.array([[0, 0, *size]])) for image in images]),
    ):
        work()
        print(f"{stage:10} {args.frames / statistics.median(seconds(work) for _ in range(args.pairs)):8.1f} frames/s")
    compare(
        "drawing",
        lambda: [naive_skeleton.draw(*found, *size) for found in people],
        lambda: [draw(*found, *size) for found in people],
        args.pairs,
        args.frames,
    )
    compare("whole", naive, lambda: ours("ours"), args.pairs, args.frames)


if __name__ == "__main__":
    main()
