"""What all visitors share: clips, queue, networks for a look; uploads and choices come in, clips come out."""

import subprocess
from dataclasses import dataclass, field
from typing import Any

from animation.app.check import Check, Checker
from animation.app.jobs import Job, Jobs, Uploads
from animation.app.preview import Previews
from animation.app.runner import Runner, command_of, run_environment
from animation.errors import InputError
from animation.weights.layout import Checkpoints

PLAN_SECONDS = 120  # that the plan of a clip may take


@dataclass
class Server:
    """What all visitors share.

    Attributes:
        jobs, runner, checker: clips on disk, their queue, and the look at inputs.
        checkpoints: the networks in use.
        servers: what the server adds to a clip's settings.
        previews: of the clips that are being sampled.
    """

    jobs: Jobs
    runner: Runner
    checkpoints: Checkpoints
    servers: dict[str, Any]
    previews: Previews
    checker: Checker = field(default_factory=Checker)

    def begin(self, uploads: Uploads, values: dict[str, Any]) -> Job:
        """Check everything, and put a new clip into the queue. Raises InputError."""
        return self._queue(self.jobs.make(uploads, values))

    def again(self, job: Job, **changes: Any) -> Job:
        """The same clip with other choices, in the queue. Raises InputError."""
        return self._queue(self.jobs.again(job, **changes))

    def go_on(self, job: Job) -> Job:
        """A clip that stopped or failed, in the queue again. Raises InputError."""
        self.runner.add(job)
        return job

    def _queue(self, job: Job) -> Job:
        try:
            self.jobs.read(job, **self.servers)
            self.jobs.add(job)
            self.runner.add(job)
        except BaseException:
            self.jobs.forget(job)
            raise
        return job

    def look(self, uploads: Uploads, values: dict[str, Any]) -> Check:
        """What is found in a clip's inputs. Raises InputError."""
        job = self.jobs.make(uploads, values)
        try:
            settings, inputs = self.jobs.read(job, **self.servers)
            check = self.checker(settings, inputs)
            for finding in check.findings:
                finding.text = job.tell(finding.text)
            return check
        finally:
            self.jobs.forget(job)

    def plan(self, uploads: Uploads, values: dict[str, Any]) -> str:
        """How long a clip will take and how much memory, in a line. Raises InputError.

        A process of its own finds out, so that this one never holds memory of a GPU; not while it would slow down a
        clip that is being made.
        """
        if self.runner.is_short_of_cores:
            return "How long it will take is found out when no other clip is being made."
        job = self.jobs.make(uploads, values)
        try:
            done = subprocess.run(
                command_of(job.settings(**self.servers), "--dry_run"),
                capture_output=True,
                text=True,
                env=run_environment(),
                timeout=PLAN_SECONDS,
                check=False,
            )
            if done.returncode:
                raise InputError(job.tell(done.stderr).removeprefix("error: "))
            lines = done.stdout.strip().split("\n")
            counted = next((line for line in lines if line.startswith("driver")), "").rpartition(": ")[2]
            return f"{counted}; {lines[-1].removeprefix('in all').strip().rpartition(' at ')[0]}"
        except subprocess.TimeoutExpired:
            raise InputError("how long it will take could not be found out in time") from None
        finally:
            self.jobs.forget(job)
