"""Calls timed in turn in one process, so that a drift of the machine's speed touches all alike."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

MOST_WARM_UPS, STEADY = 5, 0.1  # rounds before measuring, until no time changes by more than this share


def seconds_in_turn(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run all calls in turn until their times are steady, then `repeats` times; the seconds of each by its name.

    The first calls after gigabytes were allocated are up to four times slower than later ones.
    """
    before = dict.fromkeys(calls, math.inf)
    for _ in range(MOST_WARM_UPS):
        now = {name: seconds(call) for name, call in calls.items()}
        if all(abs(now[name] / before[name] - 1) <= STEADY for name in calls):
            break
        before = now
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: [times[name] for times in rounds] for name in calls}


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes, until the device is done with it."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: list[float], others: list[float]) -> str:
    """Median (smallest to largest) of the quotients of two calls' seconds."""
    quotients = [a / b for a, b in zip(values, others, strict=True)]
    return f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f})"


def in_a_process(
    make: Callable[..., dict[str, Callable[[], torch.Tensor]]], *args: Any
) -> dict[str, Callable[[], Any]]:
    """The calls that `make(*args)` makes, each run in one process of their own, which ends with this one.

    So that both sides have their own memory. A call returns its tensor as float32 NumPy.
    """
    ours, theirs = get_context("spawn").Pipe()
    get_context("spawn").Process(target=_serve, args=(theirs, make, args), daemon=True).start()

    def call(name: str) -> np.ndarray:
        ours.send(name)
        return ours.recv()

    return {name: partial(call, name) for name in ours.recv()}


def _serve(connection: Connection, make: Callable[..., dict[str, Callable]], args: tuple) -> None:
    """Answer with the results of the calls that are asked for by name, until nobody asks any more."""
    with torch.inference_mode(), contextlib.suppress(EOFError):
        calls = make(*args)
        connection.send(list(calls))
        while True:
            connection.send(calls[connection.recv()]().float().cpu().numpy())
