"""Readers that are naive in one way each: the fuzzing must find all of them."""

import os
import time
from pathlib import Path

import numpy as np

from tests.robustness.readers import Reader, key_points


def _hang(path: Path) -> None:
    time.sleep(1000)


def _fill_memory(path: Path) -> None:
    bytearray(5 << 30)


def _end(path: Path) -> None:
    os.abort()


def _leave(path: Path) -> None:
    (path.parent / "half-written").touch()


def _read_arrays(path: Path) -> None:
    dict(np.load(path))


def _trust_a_word(path: Path) -> None:
    if path.read_bytes()[:4] == b"pupa":
        raise KeyError("a damage that is hard to meet by chance")


CONTROLS = {
    name: Reader("keypoints.npz", read, key_points(np.savez_compressed))
    for name, read in (
        ("that hangs", _hang),
        ("that fills memory", _fill_memory),
        ("that ends the process", _end),
        ("that leaves files", _leave),
        ("that is numpy's own", _read_arrays),
        ("that trusts a word", _trust_a_word),
    )
}
