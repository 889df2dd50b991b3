"""A bounded part of the kills, and full disks; the whole: python -m tests.robustness.jobs 100."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from animation.files import write_whole
from animation.weights.state_dicts import write_state_dict

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied")


def run(code_or_module, *arguments):
    command = [sys.executable, *code_or_module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.long
def test_commands_that_are_ended_go_on_to_the_same_results():
    ended = run(["-m", "tests.robustness.jobs"], "2", "animate.py", "prepare_data.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.long
def test_the_harness_finds_a_command_that_does_not(tmp_path):
    code = "from tests.robustness.jobs import *; from tests.robustness.kills import *"
    code += f"; print(end_all({{'naive': Command(naive, [])}}, Path({str(tmp_path)!r}), 4))"
    ended = run(["-c", code])
    assert "naive, SIGKILL: other results: result" in ended.stdout, ended.stdout + ended.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    with contextlib.suppress(OSError):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield place
            subprocess.run(["umount", str(place)], check=True)
            return
    pytest.skip("no disk can be mounted here")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_on_a_full_disk_are_one_line_and_leave_the_old_ones(small_disk, name):
    path = small_disk / name
    for size, fits in ((1000, True), (1 << 18, False), (2000, True)):
        state = {"a": torch.zeros(size)}
        if fits:
            write_whole(path, lambda partial, state=state: write_state_dict(partial, state))
        else:
            before = path.read_bytes()
            with pytest.raises(OSError, match=r"cannot be written; (the disk may be full|No space left)"):
                write_whole(path, lambda partial, state=state: write_state_dict(partial, state))
            assert path.read_bytes() == before
            assert [file.name for file in small_disk.iterdir()] == [name]
