"""The queue: clips in their turn, one at a time on each device, each in a process of its own.

A run is `animate.py` as a subprocess. So cancelling it is the signal that it keeps its state on, memory of the host and
of the GPU is free again after each clip, and a crash takes nothing with it. What it costs is loading the models each
time, seconds of minutes.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import animation
from animation.app.jobs import DONE, FAILED, LOG_FILE, RUNNING, STOPPED, WAITING, Job
from animation.app.progress import Progress, read_bar
from animation.cli import INTERRUPTED_STATUS
from animation.clip.settings import ClipSettings
from animation.errors import InputError

logger = logging.getLogger(__name__)

STOPPED_BY_US = INTERRUPTED_STATUS, -signal.SIGTERM  # status of a run that put its state away, or had not begun
PATIENCE = 30.0  # seconds that a run has to put its state away
MOST_LOG = 1 << 20  # bytes that are kept of a run's output
ERROR = "error: "


class Runner:
    """Runs clips in the order in which they were added.

    Args:
        devices: one thread each; None leaves the choice to the run.
        most_waiting: clips that may wait.
        servers: what the server adds to a clip's settings.
        finish: called with a clip when its run is done, in the run's thread.
    """

    def __init__(self, devices: Sequence[str | None], most_waiting: int, servers: dict, finish: Callable[[Job], None]):
        self.most_waiting, self.servers, self.finish = most_waiting, servers, finish
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: dict[str, subprocess.Popen] = {}
        self._progress: dict[str, Progress] = {}
        self._changed, self._closed = threading.Condition(), False
        self._devices = list(devices)
        self._threads = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job) -> None:
        """Let a clip wait for its turn. Raises InputError where too many do, or it has it already."""
        with self._changed:
            if job.state in (WAITING, RUNNING):
                raise InputError("this clip is being made already")
            if len(self._waiting) >= self.most_waiting:
                raise InputError(f"{self.most_waiting} clips are waiting already; come back later")
            job.set(WAITING)
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Take a clip out of the queue, or stop its run, which keeps its state."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.set(STOPPED)
            elif job.name in self._running:
                self._running[job.name].send_signal(signal.SIGTERM)

    def place(self, job: Job) -> int:
        """How many clips are before this one, those that run included; 0 where it runs, or does not wait."""
        with self._changed:
            return self._waiting.index(job) + len(self._running) if job in self._waiting else 0

    def progress(self, job: Job) -> Progress:
        """How far a clip's run is."""
        return self._progress.get(job.name, Progress())

    @property
    def is_short_of_cores(self) -> bool:
        """Whether a clip is being made on the cores that everything else runs on too."""
        return self._devices == [None] and bool(self._running)

    def close(self) -> None:
        """Stop all runs, which keep their state, and wait for that."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.set(STOPPED)
            self._waiting.clear()
            for process in self._running.values():
                process.send_signal(signal.SIGTERM)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(PATIENCE)
        for process in list(self._running.values()):
            process.kill()

    def _work(self, device: str | None) -> None:
        """One clip after the other, on one device."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
                process = self._start(job, device)
            if process is None:
                continue
            try:
                with contextlib.closing(_lines(process)) as lines:
                    error = self._follow(job, lines)
                status = process.wait()
                if status == 0:
                    self.finish(job)
            except Exception as failure:  # the next clip may do all the same
                logger.exception("%s", job.folder)
                process.kill()
                status, error = 1, f"{type(failure).__name__}: {failure}"
            with self._changed:
                del self._running[job.name]
                self._progress.pop(job.name, None)
                if status == 0:
                    job.set(DONE)
                elif status in STOPPED_BY_US:
                    job.set(STOPPED)
                else:
                    killed = f"the run ended with status {status}, for want of memory perhaps; it can go on"
                    job.set(FAILED, job.tell(error or killed))

    def _start(self, job: Job, device: str | None) -> subprocess.Popen | None:
        """Start a clip's run; None where that fails."""
        servers = self.servers | ({} if device is None else {"device": device})
        try:
            process = subprocess.Popen(
                command_of(job.settings(**servers)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # an interrupt at the terminal is the server's, which passes it on
                env=run_environment(),
            )
        except (InputError, OSError) as error:
            job.set(FAILED, job.tell(error))
            return None
        job.set(RUNNING)
        self._running[job.name] = process
        return process

    def _follow(self, job: Job, lines: Iterator[str]) -> str | None:
        """Read what a run prints until its end, keep it, and return its error."""
        error, kept = None, 0
        with (job.folder / LOG_FILE).open("w", encoding="utf-8") as log:
            for line in lines:
                progress = read_bar(line)
                if progress is not None:
                    self._progress[job.name] = progress
                elif kept < MOST_LOG:
                    kept += log.write(f"{line}\n")
                if line.startswith(ERROR):
                    error = line.removeprefix(ERROR)
        return error


def command_of(settings: ClipSettings, *more: str) -> list[str]:
    """The command that makes a clip."""
    return [sys.executable, "-m", "animation.commands", "animate", *more, *flags_of(settings)]


def flags_of(settings: ClipSettings) -> list[str]:
    """A clip's settings as flags of animate.py; those at their defaults are left out."""
    flags = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None or value == field.default:
            continue
        if field.default is None and isinstance(value, bool):
            flags.append(f"--{field.name}" if value else f"--no-{field.name}")
        else:
            flags.append(f"--{field.name}={value}")
    return flags


def run_environment() -> dict[str, str]:
    """The variables of a run, which finds this package where it is."""
    root = str(Path(animation.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "0.5"}


def _lines(process: subprocess.Popen) -> Generator[str, None, None]:
    """What a process prints, line by line; a progress bar's line ends where it begins anew."""
    rest = b""
    assert process.stderr is not None
    with process.stderr as stream:
        while content := os.read(stream.fileno(), 1 << 16):
            *whole, rest = re.split(rb"[\r\n]+", rest + content)
            yield from (line.decode("utf-8", "replace") for line in whole if line)
            rest = rest[-MOST_LOG:]
    if rest:
        yield rest.decode("utf-8", "replace")
