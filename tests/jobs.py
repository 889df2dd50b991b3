"""Small jobs for the workers of a cluster."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from animation.training.preparation import ClipJob
from tests.waiting import wait_until


def both_are_here(log: Path) -> bool:
    """Whether two processes have begun a job that meets another one."""
    return len({line.split()[1] for line in log.read_text().splitlines() if line.startswith("meets")}) > 1


class Recorder:
    """Notes in a file which job it begins, and does as the job says."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, job: tuple[str, str]) -> tuple[str, int, int]:
        """The job's name, the process, and how many this worker did before it."""
        path, name = job
        with Path(path).open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        if name.startswith("poison") or (name == "once" and Path(path).read_text().count("once ") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "raises":
            raise ValueError("this job raises")
        time.sleep(0.5 if name.startswith("slow") else 0)
        if name.startswith("meets"):
            wait_until(lambda: both_are_here(Path(path)), 100)
        self.made += 1
        return name, os.getpid(), self.made - 1


class Timed:
    """Notes in a file when a stage was at work on which clip; one stage may kill its process, once."""

    def __init__(self, make: Callable[[], Callable], name: str, log: Path, killed: str | None) -> None:
        self.work, self.name, self.log, self.killed = make(), name, log, killed

    def __call__(self, job: ClipJob) -> str | None:
        """The stage's own result."""
        begin, died = time.monotonic(), self.log.with_suffix(".died")
        result = self.work(job)
        if self.name == self.killed and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.log.open("a") as file:
            file.write(f"{self.name} {job.folder.name} {os.getpid()} {begin} {time.monotonic()}\n")
        return result
