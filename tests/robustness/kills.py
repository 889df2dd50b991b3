"""Commands that are ended at random moments, and started again: the results must be those of an uninterrupted run."""

import contextlib
import ctypes
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animation import cli

STALE = ("partial", ".lock", ".unfinished", ".old", ".writing/")  # in names of what a finished run must not leave
FACTS = ("key", "num_frames", "outputs", "csim", "seams", "sound", "size", "driver", "face_found")  # of run.json
LONGEST = 300  # seconds of a run
OTHER_USER = 65534
CAPABILITIES_VERSION = 0x20080522  # of capset(2): two blocks of effective, permitted and inheritable ones


@dataclass(frozen=True)
class Command:
    """What is ended and started again.

    Attributes:
        main: of a script.
        arguments: flags, by relative paths: a run's working directory is its folder.
        output: where its results go in that folder.
    """

    main: Callable[[], None]
    arguments: list[str]
    output: str = "out"


def log_of(folder: Path) -> Path:
    """What the runs of a folder say, beside it."""
    return folder.with_name(f"{folder.name}.log").absolute()


def start(command: Command, folder: Path, privileged: bool = True) -> int:
    """Start a command in a process of its own, a copy of this one, whose imports are done; its number.

    Args:
        privileged: whether it keeps what root may do beyond other users: write anywhere, above all.
    """
    process = os.fork()
    if process:
        return process
    try:
        os.chdir(folder)
        log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if not privileged:
            give_up_privileges()
        sys.argv = ["command", *command.arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.run(command.main)
        sys.stdout.flush()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(99)
    os._exit(0)


def give_up_privileges() -> None:
    """Let this process, of root, write only what is root's, as any other user writes only what is theirs."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def wait(process: int, seconds: float = LONGEST) -> int | None:
    """The status of a process when it ends, minus a signal's number; None where it is still at work by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def end(process: int, sign: int, moment: float) -> tuple[int | None, float]:
    """Send a signal after so many seconds; the status of the process, and the seconds that it took to end."""
    status = wait(process, moment)
    if status is not None:
        return status, 0.0
    os.kill(process, sign)
    sent = time.monotonic()
    return wait(process), time.monotonic() - sent


def results(folder: Path) -> dict[str, str]:
    """A hash of each file of a run, apart from what says when, how long and how often it was at work."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: object = path.read_bytes()
        if path.suffix == ".npz":
            content = {name: array.tolist() for name, array in np.load(path).items() if name != "sources"}
        elif path.suffix == ".jsonl":
            content = [json.loads(line) | {"samples_per_second": None} for line in path.read_text().splitlines()]
        elif path.name == "run.json":
            content = {name: value for name, value in json.loads(path.read_text()).items() if name in FACTS}
        found[str(path.relative_to(folder))] = hashlib.sha256(repr(content).encode()).hexdigest()
    return found


def stale(folder: Path) -> list[str]:
    """What a finished run should have removed."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [name for name in names if any(part in name for part in STALE)]


def compare(command: Command, folder: Path, expected: dict[str, str]) -> list[str]:
    """What is wrong with what a command has written by its end."""
    found = results(folder / command.output)
    different = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    problems = {"other results": different, "left behind": stale(folder)}
    return [f"{what}: {', '.join(names[:5])}" for what, names in problems.items() if names]


def start_again(command: Command, folder: Path, expected: dict[str, str], privileged: bool = True) -> list[str]:
    """What is wrong with how a command goes on, and with what it ends with."""
    status = wait(start(command, folder, privileged))
    failed = [f"status {status} when started again: {log_of(folder).read_text()[-500:]}"] if status != 0 else []
    return failed + compare(command, folder, expected)


def not_one_line(status: int | None, folder: Path) -> list[str]:
    """What is wrong with how a command that could not go on said so; its log is gone then."""
    told = log_of(folder).read_text(errors="replace")
    log_of(folder).unlink()
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    clear = status in (1, 2) and "Traceback" not in told and len(lines) == 1
    return [] if clear else [f"status {status}: {told[-1500:]}"]


@dataclass(frozen=True)
class Trial:
    """What came of a run that was ended: `problems` in words, and the seconds that the signal took."""

    problems: list[str]
    seconds: float


def try_to_end(
    command: Command, folder: Path, expected: dict[str, str], length: float, sign: int, rng: random.Random
) -> Trial:
    """End a command once or twice at random moments, start it again, and compare with what is expected.

    Args:
        length: seconds of an uninterrupted run.
    """
    problems, seconds = [], 0.0
    for _ in range(rng.choice((1, 1, 2))):
        status, taken = end(start(command, folder), sign, rng.uniform(0, length))
        seconds = max(seconds, taken)
        if status not in (0, -sign, 130 if sign != signal.SIGKILL else -sign):
            problems.append(f"ended with status {status}: {log_of(folder).read_text()[-1500:]}")
    return Trial(problems + start_again(command, folder, expected), seconds)


def uninterrupted(command: Command, folder: Path) -> tuple[dict[str, str], float]:
    """The results of a whole run, and its seconds."""
    began = time.monotonic()
    status = wait(start(command, folder))
    if status != 0:
        raise RuntimeError(f"status {status}: {log_of(folder).read_text()[-2000:]}")
    return results(folder / command.output), time.monotonic() - began


def second_run(command: Command, folder: Path) -> list[str]:
    """What is wrong with how a command takes it that another one is at work in its output folder."""
    first = start(command, folder)
    while not list((folder / command.output).rglob(".lock.json")):
        if wait(first, 0.005) is not None:
            return ["the first run ended before it took hold of its folder"]
    second = wait(start(command, folder))
    told = "is at work there" in log_of(folder).read_text()
    problems = [] if told else ["the second run did not say who holds the folder"]
    problems += [f"the second run ended with status {second}"] if second not in (0, 2) else []
    status = wait(first)
    return problems + ([f"the first run ended with status {status}"] if status != 0 else [])


def on_small_disk(command: Command, disk: Path, expected: dict[str, str], grow: Callable[[int], None]) -> list[str]:
    """What is wrong with how a command takes a full disk, again and again, and with what it ends with.

    Args:
        disk: where it runs.
        grow: makes that disk so many bytes large, with what is on it.
    """
    problems, size = [], 1 << 14
    log_of(disk).unlink(missing_ok=True)
    while (status := wait(start(command, disk))) != 0:
        problems += [f"on a disk of {size} bytes {problem}" for problem in not_one_line(status, disk)]
        size *= 2
        if size > 1 << 28:
            return [*problems, "it does not end on a large disk either"]
        grow(size)
    return problems + [f"after a full disk {problem}" for problem in compare(command, disk, expected)]


def without_permission(
    command: Command, folder: Path, expected: dict[str, str], length: float, rng: random.Random
) -> list[str]:
    """What is wrong with how a command takes it that at a random moment nothing can be written any more in its folder.

    This process must have the rights of root. `length`: seconds of an uninterrupted run.
    """
    log_of(folder).unlink(missing_ok=True)
    process = start(command, folder, privileged=False)
    if (status := wait(process, rng.uniform(0, length))) is None:
        give(folder, OTHER_USER)
        status = wait(process)
    problems = not_one_line(status, folder) if status != 0 else []
    give(folder, os.geteuid())
    return problems + start_again(command, folder, expected, privileged=False)


def give(folder: Path, user: int) -> None:
    """Make a user the owner of a folder and of all that is in it now; what vanishes meanwhile is none's."""
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, user, user, follow_symlinks=False)
