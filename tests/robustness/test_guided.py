"""Inputs that coverage guides: a few for some readers, and that the harness finds what chance does not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.fuzzing import make_input
from tests.robustness.readers import READERS

ROOT = Path(__file__).parents[2]
RUNS = 5000  # in which the control's damage must be found

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris (pip install atheris)"),
]


def guided(reader, runs, keep):
    command = [sys.executable, "-m", "tests.robustness.guided", reader, f"--runs={runs}", f"--keep={keep}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_finds_what_chance_does_not(tmp_path):
    ended = guided("that trusts a word", RUNS, tmp_path)
    assert ended.returncode != 0 and "hard to meet by chance" in ended.stdout + ended.stderr
    (found,) = tmp_path.iterdir()
    assert found.read_bytes().startswith(b"pupa")
    seeds = list(READERS["compressed npz"].seeds())
    assert not any(make_input("that trusts a word", number, seeds).startswith(b"pupa") for number in range(RUNS))


@pytest.mark.parametrize("reader", ["png", "npz", "yaml", "pth", "safetensors", "run.json"])
def test_readers_take_what_reaches_new_code(tmp_path, reader):
    ended = guided(reader, 1000, tmp_path)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    assert "DONE" in ended.stderr and not list(tmp_path.iterdir())
