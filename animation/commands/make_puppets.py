"""Make clips of puppets: characters and motions from seeds, with skeletons, face masks and all key points.

    python make_puppets.py clips output/puppets --count 3 --mp4
    python make_puppets.py training output/puppet_data --rec 200 --vec 50
    python make_puppets.py cases output/puppet_cases --count 20 --kind cross

`clips` writes images/, poses/, faces/ and truth.npz; `training` the layout that train.py reads; `cases` held-out cases
that inference_basic.py animates and evaluate.py measures. What an interrupted run wrote is kept, and the same command
goes on from there.
"""

import argparse
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation import cli
from animation.errors import InputError
from animation.media.sound import Sound
from animation.media.writing import check_writable, write_mp4
from puppets.motions import KINDS
from puppets.music import make_tune
from puppets.seeds import SPLITS
from puppets.writing import (
    BUCKETS,
    CASE_KINDS,
    DRIVERS,
    FPS,
    FolderError,
    Format,
    write_case,
    write_clip,
    write_clip_list,
)


def build_parser() -> argparse.ArgumentParser:
    """One sub-command for each thing that can be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("clips", "plain folders"), ("training", "the training layout"), ("cases", "held-out cases")):
        command = commands.add_parser(name, help=text, description=text, formatter_class=cli.HelpFormatter)
        command.add_argument("output_dir", metavar="DIR", help="where the folders go; made where missing")
        command.add_argument("--frames", type=int, default=32, metavar="N", help="frames of each clip")
        command.add_argument("--start", type=int, default=0, metavar="N", help="index of the first clip")
        command.add_argument(
            "--canvas",
            type=int,
            help="short side of what skeletons are drawn on, smaller for thicker strokes; left out, 3 times the "
            "picture's, at most 2160",
        )
        command.add_argument("--workers", type=int, default=1, metavar="N", help="processes")
        if name == "training":
            for bucket, size in (("rec", "128x128"), ("vec", "128x192")):
                command.add_argument(f"--{bucket}", type=int, default=0, metavar="N", help=f"clips in {bucket}/")
                command.add_argument(f"--{bucket}_size", default=size, metavar="WIDTHxHEIGHT", help="their size")
            continue
        command.add_argument("--count", type=int, default=1, metavar="N", help="how many")
        command.add_argument("--size", default="256x256", metavar="WIDTHxHEIGHT", help="pixels")
        if name == "cases":
            command.add_argument(
                "--kind",
                choices=CASE_KINDS,
                default="same",
                help="same: the photo is another moment of the driving video; cross: of another character",
            )
        else:
            command.add_argument("--split", choices=SPLITS, default="training", help="whose characters and motions")
            command.add_argument("--motion", choices=KINDS, help="left out, each clip's own")
            command.add_argument("--people", type=int, choices=(1, 2), default=1, help="in a frame")
            command.add_argument("--mp4", action="store_true", help="also write video.mp4, with a tune")
    return parser


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` as two even numbers of 16 to 4096. Raises InputError."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    sizes = tuple(map(int, match.groups())) if match else ()
    if not sizes or any(not 16 <= side <= 4096 or side % 2 for side in sizes):
        raise InputError(f"size {text}: not understood; give WIDTHxHEIGHT, even numbers of 16 to 4096, such as 128x128")
    return sizes


def plan(arguments: argparse.Namespace) -> list[Callable[[], Path]]:
    """What is to be written, a function a folder. Raises InputError."""
    least = {"frames": 1, "start": 0, "workers": 1, "count": 1, "canvas": 16, "rec": 0, "vec": 0}
    for name, minimum in least.items():
        value = getattr(arguments, name, None)
        if value is not None and value < minimum:
            raise InputError(f"--{name} {value} is below {minimum}; give {minimum} or more")
    root = Path(arguments.output_dir)

    def form(size: str) -> Format:
        width, height = parse_size(size)
        return Format(width=width, height=height, num_frames=arguments.frames, canvas=arguments.canvas)

    if arguments.command == "training":
        if not arguments.rec + arguments.vec:
            raise InputError("nothing to make; give the number of clips with --rec or --vec")
        jobs, index = [], arguments.start
        for bucket in BUCKETS:
            bucket_form = form(getattr(arguments, f"{bucket}_size"))
            for _ in range(getattr(arguments, bucket)):
                index += 1
                jobs.append(partial(write_clip, root / bucket / f"{index:05d}", "training", index - 1, bucket_form))
        return jobs
    indices = range(arguments.start, arguments.start + arguments.count)
    if arguments.command == "cases":
        if indices.stop > DRIVERS:
            raise InputError(f"cases up to {indices.stop}: those from {DRIVERS} on are drivers; make fewer")
        return [
            partial(write_case, root / f"case-{i + 1}", i, form(arguments.size), kind=arguments.kind) for i in indices
        ]
    return [
        partial(
            write_clip,
            root / f"clip-{i + 1}",
            arguments.split,
            i,
            form(arguments.size),
            arguments.motion,
            arguments.people,
        )
        for i in indices
    ]


def write_video(folder: Path, split: str, index: int) -> None:
    """Write a clip's images as video.mp4 beside them, with its tune."""
    count = len(list((folder / "images").iterdir()))
    frames = (np.asarray(Image.open(folder / "images" / f"frame_{i}.png")) for i in range(count))
    unfinished = folder / "video.partial.mp4"
    write_mp4(unfinished, frames, FPS, Sound(make_tune(split, index, count / FPS)))
    unfinished.replace(folder / "video.mp4")


def main() -> None:
    """Parse, check, make."""
    arguments = build_parser().parse_args()
    cli.start_logging()
    jobs, root = plan(arguments), Path(arguments.output_dir)
    check_writable(root)
    try:
        if arguments.workers > 1:
            with ProcessPoolExecutor(arguments.workers) as pool:
                futures = [pool.submit(job) for job in jobs]
                try:
                    for future in tqdm(futures, desc="puppets", unit="clip"):
                        future.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        else:
            for job in tqdm(jobs, desc="puppets", unit="clip"):
                job()
    except FolderError as error:
        raise InputError(str(error)) from None
    if arguments.command == "training":
        for bucket in BUCKETS:
            if getattr(arguments, bucket):
                write_clip_list(root, bucket)
    if getattr(arguments, "mp4", False):
        for job in jobs:
            write_video(*job.args[:3])
