"""How commands end when a signal reaches them: between statements, within `exec`, and while modules are imported."""

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from animation import cli

# Imports a module that, as extension modules do, makes something else of an exception in its midst.
MODULE = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass
except BaseException:
    {swallow}
"""
RUN = """
import signal, sys, time
import animation.commands
from animation import cli
{before}
def main():
    {statement}
    time.sleep(20)
cli.run(main)
"""
ROOT = Path(__file__).parents[1]
PLAIN = "cli._interrupt = signal.default_int_handler"


def ended(tmp_path, statement, before=""):
    """The status and the last line of a command that runs a statement."""
    (tmp_path / "command.py").write_text(RUN.format(statement=statement, before=before))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "command"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stderr.strip().split("\n")[-1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("swallow", ["raise ImportError('initialization failed')", "pass"])
def test_a_signal_within_an_import_ends_at_once(tmp_path, name, swallow):
    (tmp_path / "extension.py").write_text(MODULE.format(name=name, swallow=swallow))
    statement = "try: import extension\n    except ImportError: sys.exit(5)"
    assert ended(tmp_path, statement) == (130, f"error: {cli.INTERRUPTED}")
    status, _ = ended(tmp_path, f"{statement}\n    sys.exit(4)", PLAIN)
    assert status == (5 if "raise" in swallow else 4)


def test_what_a_library_makes_of_a_signal_does_not_count(tmp_path):
    """As safetensors, in whose midst Python's own exceptions become others."""
    statement = "try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)\n    except BaseException: raise {} from None"
    for error in ("ValueError('no shape')", "cli.InputError('damaged')"):
        assert ended(tmp_path, statement.format(error), "import os") == (130, f"error: {cli.INTERRUPTED}")
    status, line = ended(tmp_path, "raise ValueError('no shape')")
    assert (status, line) == (1, "ValueError: no shape")  # control: a defect stays one


def test_a_signal_within_exec_ends_as_any_other(tmp_path):
    statement = "exec('signal.raise_signal(signal.SIGTERM)')"
    assert ended(tmp_path, statement) == (130, f"error: {cli.INTERRUPTED}")
    assert ended(tmp_path, statement, PLAIN)[0] == -signal.SIGINT


@pytest.mark.parametrize("end", ["", "raise cli.InputError('bad')", "raise KeyboardInterrupt"])
def test_signals_mean_what_they_did_once_a_command_has_ended(end):
    """Else one that comes while Python ends would end in a traceback."""
    kinds, during = (signal.SIGTERM, signal.SIGINT), []
    before = [*map(signal.getsignal, kinds)]

    def main():
        during.extend(map(signal.getsignal, kinds))
        exec(end)

    with contextlib.suppress(SystemExit):
        cli.run(main)
    assert during == [cli._interrupt] * 2 and before == [*map(signal.getsignal, kinds)]


def test_a_signal_after_the_work_leaves_no_traceback(tmp_path):
    late = "atexit.register(os.kill, os.getpid(), signal.SIGTERM); sys.exit(0)"
    keep = (
        "signal.signal = lambda number, handler, set=signal.signal: handler is cli._interrupt and set(number, handler)"
    )
    assert ended(tmp_path, late, "import atexit, os") == (-signal.SIGTERM, "")
    assert "Interrupted" in ended(tmp_path, late, f"import atexit, os\n{keep}")[1]  # control


def test_a_thread_leaves_signals_to_the_main_thread():
    assert set(cli.ending_signals()) == {signal.SIGTERM, signal.SIGINT}
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.ending_signals).result() == []
        assert pool.submit(cli.run, lambda: 7).result() == 7


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    statement = "signal.raise_signal(signal.SIGINT); sys.exit(3)"
    assert ended(tmp_path, statement, "signal.signal(signal.SIGINT, signal.SIG_IGN)")[0] == 3
    assert ended(tmp_path, statement)[0] == 130


def test_a_command_is_interrupted_while_it_is_imported(tmp_path):
    (tmp_path / "slow.py").write_text(MODULE.format(name="SIGTERM", swallow="raise"))
    before = f"animation.commands.__path__.append({str(tmp_path)!r})"
    assert ended(tmp_path, "cli.run_command('slow')", before)[0] == 130


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_starts_ends_within_seconds_at_any_moment(tmp_path, number):
    photo, driver = ROOT / "inference" / "case-2" / "reference.png", ROOT / "inference" / "driver.mp4"
    flags = {"photo": photo, "video": driver, "output": tmp_path / "out", "num_inference_steps": 200}
    command = [sys.executable, "animate.py", *(f"--{name}={value}" for name, value in flags.items())]
    moments = np.arange(1.5, 6.5, 0.5)  # seconds; most of them are spent on imports
    for moment in moments:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(number)
        told = process.communicate(timeout=5)[1]
        assert process.returncode == cli.INTERRUPTED_STATUS, f"after {moment:.1f} s: {told}"
        assert told.endswith(f"error: {cli.INTERRUPTED}\n")
