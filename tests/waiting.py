"""Waiting for what another process or thread does."""

import subprocess
import time
from collections.abc import Callable


def wait_until(
    told: Callable[[], bool], seconds: float = 20, every: float = 0.01, by: subprocess.Popen | None = None
) -> None:
    """Return once something is so; fail where it is not in time, or the process that was to make it so has ended."""
    end = time.monotonic() + seconds
    while not told():
        assert by is None or by.poll() is None, f"{by.args} ended with {by.returncode}"
        assert time.monotonic() < end, f"not so within {seconds} seconds"
        time.sleep(every)
