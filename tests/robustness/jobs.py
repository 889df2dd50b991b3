"""The commands that are killed: small runs of each stage, from files made here.

    python -m tests.robustness.jobs TRIALS [COMMAND]

ends each so many times by SIGKILL, half as often by SIGTERM and by Ctrl-C, takes the right to write from each half as
often (as root), starts each twice at once and on a full disk, and prints what went wrong.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import animation.clip.flow
import animation.training.loop  # noqa: F401  done once, before processes are copied
from animation.commands import animate, prepare_data, train
from animation.media.writing import write_mp4
from tests import pose_models, synthetic
from tests.clips import clip_settings, flags_of, write_keypoints
from tests.face_models import write_face_models
from tests.robustness.kills import (
    Command,
    log_of,
    on_small_disk,
    second_run,
    start,
    try_to_end,
    uninterrupted,
    wait,
    without_permission,
)
from tests.test_animate import write_dance
from tests.test_prepare_data import somebody

LONGEST_END = 5.0  # seconds from SIGTERM or Ctrl-C to the end


def write_inputs(folder: Path) -> None:
    """Everything that the commands below read."""
    synthetic.write_checkpoint(folder / "checkpoint")
    synthetic.write_case(folder / "case")
    (folder / "dwpose").mkdir()
    pose_models.write_models(folder / "dwpose")
    write_face_models(folder / "faces", ((320, 160, 60),))
    write_face_models(folder / "optimised", ((320, 130, 120),))
    write_dance(folder / "dance.mp4")
    write_keypoints(folder / "keypoints.npz")
    clips = synthetic.write_clips(folder / "clips", 3, (128, 128), 6)
    (folder / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
    (folder / "videos").mkdir()
    for name in "ab":
        frames = [somebody(synthetic.draw_person((64, 64), 0.2 * i, skeleton=False)) for i in range(5)]
        write_mp4(folder / "videos" / f"{name}.mp4", iter(frames), 10)


def animate_command(inputs: Path, **changes) -> Command:
    """A clip, from a video with sound unless something else is asked for."""
    common = {"video": str(inputs / "dance.mp4"), "dwpose_models": str(inputs / "dwpose"), "output": "out"}
    settings = clip_settings(inputs, inputs / "checkpoint", inputs / "case", **common | changes)
    return Command(animate.main, flags_of(settings))


def train_command(inputs: Path) -> Command:
    """Six steps with a checkpoint after every second one."""
    flags = {
        "pretrained_model_name_or_path": inputs / "checkpoint" / "SVD",
        "data_path": inputs / "list.txt",
        "dataset_width": 128,
        "dataset_height": 128,
        "sample_n_frames": 2,
        "face_models": inputs / "faces",
        "cache_dir": "cache",
        "num_workers": 0,
        "output_dir": "out",
        "max_train_steps": 6,
        "checkpointing_steps": 2,
        "checkpoints_total_limit": 2,
        "resume_from_checkpoint": "latest",
        "learning_rate": 1e-3,
        "seed": 7,
        "report_to": "none",
    }
    return Command(train.main, [*(f"--{name}={value}" for name, value in flags.items()), "--use_ema", "--cpu"])


def prepare_command(inputs: Path) -> Command:
    """Two videos."""
    flags = {
        "videos": inputs / "videos",
        "root_path": "out",
        "least_frames": 3,
        "detector_path": inputs / "dwpose" / "yolox_l.onnx",
        "pose_path": inputs / "dwpose" / "dw-ll_ucoco_384.onnx",
        "face_models": inputs / "faces",
        "device": "cpu",
    }
    return Command(prepare_data.main, [f"--{name}={value}" for name, value in flags.items()])


def commands(inputs: Path) -> dict[str, Command]:
    """All of them by name."""
    optimised = {"face_optimization": True, "num_optimization_iter": 1, "video": str(inputs / "keypoints.npz")}
    optimised |= {"face_models": str(inputs / "optimised")}
    return {
        "animate.py": animate_command(inputs, gif=True, side_by_side=True),
        "animate.py --face_optimization": animate_command(inputs, **optimised),
        "train.py": train_command(inputs),
        "prepare_data.py": prepare_command(inputs),
    }


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def naive() -> None:
    """A control: takes a file that is there for a whole one, and writes it in place."""
    path = Path("out/result")
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        with path.open("w") as file:
            for number in range(100):
                file.write(f"{number}\n")
                file.flush()
                time.sleep(0.01)


def end_all(named: dict[str, Command], root: Path, trials: int, seed: int = 0) -> list[str]:
    """End the commands at random moments, and start them again; what went wrong. Prints a line for each command.

    Args:
        trials: by SIGKILL, and half as many by each of SIGTERM and SIGINT.
    """
    rng, problems, folder = random.Random(seed), [], root / "run"
    for name, command in named.items():
        expected, length = uninterrupted(command, fresh(folder))
        for sign, count in ((signal.SIGKILL, trials), (signal.SIGTERM, trials // 2), (signal.SIGINT, trials // 2)):
            done = [try_to_end(command, fresh(folder), expected, length, sign, rng) for _ in range(count)]
            slowest = max((trial.seconds for trial in done), default=0.0)
            found = [f"{name}, {sign.name}: {problem}" for trial in done for problem in trial.problems]
            found += [f"{name}, {sign.name}: took {slowest:.1f} s to end"] if slowest > LONGEST_END else []
            print(f"{name}: {count} times {sign.name}, {len(found)} problems, slowest end {slowest:.2f} s", flush=True)
            problems += found
        if os.geteuid() == 0:
            found = [
                f"{name}, without permission: {problem}"
                for _ in range(trials // 2)
                for problem in without_permission(command, fresh(folder), expected, length, rng)
            ]
            print(f"{name}: {trials // 2} times without permission, {len(found)} problems", flush=True)
            problems += found
    return problems


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Callable[[int], None] | None]:
    """A disk of 16 kB at a folder, and what makes it larger; None where none can be made."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        return False

    if not mount("size=16k"):
        yield None
        return
    try:
        yield lambda size: None if mount(f"remount,size={size}") else sys.exit("the disk cannot be made larger")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def main() -> int:
    """End all commands, or one."""
    torch.set_num_threads(1)  # threads do not survive the copying of a process
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs = fresh(root / "inputs")
        if wait(start(Command(lambda: write_inputs(inputs), []), inputs)) != 0:
            raise RuntimeError(log_of(inputs).read_text())
        named = {
            name: command for name, command in commands(inputs).items() if name in sys.argv[2:] or not sys.argv[2:]
        }
        problems = end_all(named, root, int(sys.argv[1]))
        for name, command in named.items():
            problems += [f"{name}, twice at once: {problem}" for problem in second_run(command, fresh(root / "run"))]
            expected, _ = uninterrupted(command, fresh(root / "run"))
            with small_disk(fresh(root / "run")) as grow:
                if grow is not None:
                    found = on_small_disk(command, root / "run", expected, grow)
                    problems += [f"{name}: {problem}" for problem in found]
    print("\n".join(problems) or "all went on to the same results")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
