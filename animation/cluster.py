"""Many jobs over Ray: workers that keep their networks, and each takes the next job as soon as it is free.

Ray starts on this machine, or a cluster is named by its address. Its machines have this package at the same place or
installed, and share the folders. What a worker that dies had in hand is given to another one. Work of several stages
has workers of its own for each, which are all at work at once, on different jobs.
"""

import contextlib
import importlib.util
import os
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from animation.errors import InputError, RunError
from animation.flags import NOTHING, Settings, flag

LOCAL = "local"
SECONDS_BETWEEN_TICKS = 1.0
SECONDS_TO_ANSWER = 10.0
MOST_FAILED_STARTS = 3  # one after the other, for each worker
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Cluster(Settings):
    """Where many jobs are done; without `ray`, one after the other in this process."""

    TITLE: ClassVar[str] = 'many machines (pip install ".[cluster]")'

    ray: str | None = flag(
        None,
        "share the work out over Ray: the address of a cluster, as host:port or auto; without one, over this machine",
        metavar="ADDRESS",
        const=LOCAL,
        affects=NOTHING,
    )
    ray_workers: int | None = flag(
        None,
        "with --ray: workers, of each stage; left out, one a GPU, or a CPU core where there is none",
        least=1,
        affects=NOTHING,
    )
    max_retries: int = flag(
        2, "with --ray: how often a job is given to another worker after its own died", least=0, affects=NOTHING
    )

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense, or where Ray is missing."""
        super().check()
        if self.ray is not None and importlib.util.find_spec("ray") is None:
            raise InputError('--ray: Ray is not installed; pip install ".[cluster]", or leave the flag out')


@dataclass(frozen=True)
class Stage:
    """A part of the work on each job.

    Attributes:
        make: makes what does it, once a worker; pickled where there are several.
        on_gpu: whether it takes a GPU, or a share of one, where there are some.
    """

    make: Callable[[], Callable]
    on_gpu: bool = True


class _Worker:
    """One process of the cluster, in the folder of the command."""

    def __init__(self, make: Callable[[], Callable], folder: str):
        self._make = make
        self._work: Callable | None = None
        with contextlib.suppress(OSError):
            os.chdir(folder)

    def do(self, job: Any) -> Any:
        """One job; the first one makes what does them."""
        if self._work is None:
            self._work = self._make()
        return self._work(job)


def in_turn(stages: Sequence[Stage]) -> Callable[[Any], Any]:
    """What does all stages of a job; it ends with the first one that returns anything."""
    works = [stage.make() for stage in stages]
    return lambda job: next((result for work in works if (result := work(job)) is not None), None)


def do_all(
    cluster: Cluster,
    stages: Sequence[Stage],
    jobs: Sequence[Job],
    lost: Callable[[Job, str], Result],
    on_tick: Callable[[int], object] = lambda running: None,
) -> Iterator[tuple[int, Result]]:
    """Do all jobs; yields their numbers and results as they end.

    Args:
        stages: a job ends with the first one that returns anything, or with the last.
        jobs: pickled where there are several workers.
        lost: the result of a job whose workers died too often, with the reason.
        on_tick: called with the number of jobs at work, after each one and at least every second.

    Raises:
        InputError: Ray cannot be reached.
        RunError: no worker starts, or no machine is left.
        Exception: what a job raised, of its own kind.
    """
    if not jobs:
        return
    if cluster.ray is None:
        work = in_turn(stages)
        for number, job in enumerate(jobs):
            on_tick(1)
            yield number, work(job)
        return
    with _connected(cluster.ray) as ray:
        yield from _Queue(ray, cluster, stages, jobs, lost, on_tick).results()


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, within the context. Raises InputError where it cannot be reached."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    import ray

    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        if ":" in address:  # Ray itself waits for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"--ray {address}: no Ray there ({reason}); see ray start, or give no address") from None
    signal.signal(signal.SIGTERM, terminate)  # Ray has set its own
    try:
        yield ray
    finally:
        ray.shutdown()


class _Queue:
    """The jobs that wait, and the workers; see `do_all`."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        stages: Sequence[Stage],
        jobs: Sequence,
        lost: Callable,
        on_tick: Callable[[int], object],
    ):
        self.ray, self.stages, self.jobs, self.lost, self.on_tick = ray, stages, jobs, lost, on_tick
        self.max_retries, self.deaths, self.failed_starts = cluster.max_retries, Counter[int](), 0
        self.waiting = [deque(range(len(jobs))), *(deque[int]() for _ in stages[1:])]  # by stage, as the next
        self.idle: list[list] = [[] for _ in stages]
        # By what will be there: the worker, its stage, and its job if any.
        self.at_work: dict[Any, tuple[Any, int, int | None]] = {}
        resources = ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        self.workers = min(len(jobs), cluster.ray_workers or self.gpus or int(resources.get("CPU", 1)))  # of a stage
        for _ in range(self.workers):  # one of each, so that what has its place can do all
            for stage in range(len(stages)):
                self._start(stage)

    def _start(self, stage: int) -> None:
        """Ask for a worker; it may have to wait for its place."""
        on_gpu = self.gpus > 0 and self.stages[stage].on_gpu
        sharing = sum(other.on_gpu for other in self.stages) if on_gpu else len(self.stages)
        place = {"num_gpus" if on_gpu else "num_cpus": 1 / sharing}
        worker = self.ray.remote(_Worker).options(**place).remote(self.stages[stage].make, str(Path.cwd()))
        self.at_work[worker.__ray_ready__.remote()] = worker, stage, None

    def results(self) -> Iterator[tuple[int, Any]]:
        """Numbers and results of the jobs, as they end."""
        left = len(self.jobs)
        while left:
            ready, _ = self.ray.wait(list(self.at_work), num_returns=1, timeout=SECONDS_BETWEEN_TICKS)
            for reference in ready:
                ended = self._end(reference)
                self._hand_out()
                if ended is not None:
                    left -= 1
                    yield ended
            if not ready and not any(node["Alive"] for node in self.ray.nodes()):
                raise RunError("Ray has lost all its machines; the same command goes on")
            self.on_tick(sum(number is not None for _, _, number in self.at_work.values()))

    def _end(self, reference: Any) -> tuple[int, Any] | None:
        """Take what a worker has done; the number and result of a job that ended."""
        worker, stage, number = self.at_work.pop(reference)
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            self.ray.kill(worker)
            return self._died(stage, number, str(error).strip().splitlines()[0])
        self.failed_starts = 0
        self.idle[stage].append(worker)
        if number is not None and result is None and stage + 1 < len(self.stages):
            self.waiting[stage + 1].append(number)
            return None
        return None if number is None else (number, result)

    def _hand_out(self) -> None:
        """Give the workers that are free what waits for them, and let those go for whom nothing can come any more."""
        busy = Counter(stage for _, stage, number in self.at_work.values() if number is not None)
        coming = 0  # from earlier stages
        for stage, (idle, waiting) in enumerate(zip(self.idle, self.waiting, strict=True)):
            while idle and waiting:
                worker, number = idle.pop(), waiting.popleft()
                self.at_work[worker.do.remote(self.jobs[number])] = worker, stage, number
                busy[stage] += 1
            del idle[coming:]
            coming += busy[stage] + len(waiting)

    def _died(self, stage: int, number: int | None, reason: str) -> tuple[int, Any] | None:
        """Start another worker in place of one that died, and give its job back, unless it died too often."""
        self.failed_starts += number is None
        if self.failed_starts > MOST_FAILED_STARTS * self.workers * len(self.stages):
            raise RunError(f"Ray's workers do not start: {reason}")
        self._start(stage)
        if number is None:
            return None
        self.deaths[number] += 1
        if self.deaths[number] <= self.max_retries:
            self.waiting[stage].appendleft(number)
            return None
        return number, self.lost(self.jobs[number], f"its worker died {self.deaths[number]} times: {reason}")
