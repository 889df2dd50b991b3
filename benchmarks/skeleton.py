"""Skeleton extraction without economies beside ours, in turn in one process: drawing alone, and the whole.

    python -m benchmarks.skeleton --models_folder checkpoints/DWPose --width 576 --height 1024

Reads a clip of drawn characters that it makes itself. The pixels of both must be equal.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from animation.media.images import FrameFolder
from animation.skeletons.extraction import extract
from animation.skeletons.settings import SkeletonSettings
from animation.weights.layout import find_checkpoints
from benchmarks import naive_skeleton
from benchmarks.timing import seconds_in_turn, spread
from DWPose.drawing import draw
from DWPose.sessions import DEVICES
from DWPose.wholebody import MODEL_FILES, Wholebody
from puppets.clips import make_clip
from puppets.writing import write_images


def compare(name: str, naive: Callable[[], object], ours: Callable[[], object], args: argparse.Namespace) -> None:
    """Run both in turn and print our frames a second and the ratio, median (smallest to largest)."""
    seconds = seconds_in_turn({"naive": naive, "ours": ours}, args.pairs)
    rate = args.frames / min(seconds["ours"])
    print(f"{name:10} ours {rate:8.1f} frames/s, {spread(seconds['naive'], seconds['ours'])} times as fast")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models_folder", type=Path, help="of the two ONNX files; left out, those that are found")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(args, Path(name))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Drawing and the whole, on files in `folder`."""
    detector, estimator = ((args.models_folder or find_checkpoints().dwpose) / name for name in MODEL_FILES)
    driver, size, clip = folder / "driver", (args.width, args.height), make_clip("held_out", 0)
    write_images(driver, (clip.render(i, *size)[0] for i in range(args.frames)))
    found = []

    def ours() -> None:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        settings = SkeletonSettings(
            target_image_folder_path=str(driver),
            poses_folder_path=str(folder / "ours"),
            detector_path=str(detector),
            pose_path=str(estimator),
            device=args.device,
            alignment="none",
            person="all",
        )
        extract(settings, settings.read_inputs())

    def naive() -> None:
        found.clear()
        (folder / "naive").mkdir(exist_ok=True)
        wholebody = Wholebody(detector, estimator, args.device)
        for frame in FrameFolder(driver):
            people = wholebody(np.asarray(frame))
            found.append((people.keypoints / size, people.scores))
            image = naive_skeleton.draw(*found[-1], *size)
            cv2.imwrite(str(folder / "naive" / f"frame_{len(found) - 1}.png"), image[..., ::-1])

    compare("whole", naive, ours, args)
    for people, image in zip(found, FrameFolder(folder / "ours"), strict=True):
        np.testing.assert_array_equal(np.asarray(image), naive_skeleton.draw(*people, *size))
    compare(
        "drawing",
        lambda: [naive_skeleton.draw(*people, *size) for people in found],
        lambda: [draw(*people, *size) for people in found],
        args,
    )


if __name__ == "__main__":
    main()
