"""Calls timed in turn in one process, so that a drift of the machine's speed touches all alike."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds_in_turn(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run every call once to warm up, then all in turn `repeats` times; the seconds of each by its name."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float], others: list[float]) -> str:
    """Median (smallest to largest) of the quotients of two calls' seconds."""
    quotients = [a / b for a, b in zip(values, others, strict=True)]
    return f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f})"
