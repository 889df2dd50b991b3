"""Training that is killed, interrupted and resumed."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from animation import cli
from animation.flags import LATENTS
from animation.training import checkpoint as checkpoints
from animation.training import loop
from animation.training.loop import Trainer
from animation.training.settings import OPTIMIZERS, TrainingSettings
from tests.training.runs import ROOT, arguments, equal, log, relative_difference, run, weights
from tests.waiting import wait_until


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_resumes_to_the_same_weights(flags, optimizer, monkeypatch, tmp_path):
    flags |= {
        "--optimizer": optimizer,
        "--max_train_steps": 8,
        "--checkpointing_steps": 3,
        "--use_ema": None,
        "--lr_scheduler": "cosine",
        "--lr_warmup_steps": 2,
        "--gradient_accumulation_steps": 2,
    }
    whole = flags | {"--output_dir": tmp_path / "whole", "--num_workers": 1}
    assert run(whole, monkeypatch) == 0
    process = subprocess.Popen([sys.executable, "train.py", *arguments(flags)], cwd=ROOT, stderr=subprocess.DEVNULL)
    journal = flags["--output_dir"] / "training_log.jsonl"
    wait_until(lambda: journal.is_file() and '"step": 4' in journal.read_text(), 120, by=process)
    process.kill()
    process.wait()
    left = [path.name for path in checkpoints.checkpoint_folders(flags["--output_dir"])]
    assert left[0] == "checkpoint-3"
    assert "checkpoint-8" not in left
    (flags["--output_dir"] / "checkpoint-7.partial").mkdir()  # as where the kill came while it was written
    assert run(flags | {"--resume_from_checkpoint": "latest"}, monkeypatch) == 0
    assert log(flags) == log(whole)
    assert log(flags, "learning_rate") == log(whole, "learning_rate")
    ends = [folder / "checkpoint-8" for folder in (flags["--output_dir"], whole["--output_dir"])]
    assert equal(*(weights(end) for end in ends))
    assert equal(*(checkpoints.read_tensors(end, "optimizer") for end in ends))
    assert not list(flags["--output_dir"].glob("*.partial"))
    before = weights(whole["--output_dir"] / "checkpoint-3")
    assert not equal(before, weights(ends[0]))  # a control


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_the_step_at_work(flags, processes, monkeypatch, tmp_path):
    """Of one process, and of the launcher of two; the run that goes on ends as one that was never stopped."""
    launch = ["-m", "animation.launch", "--multi_gpu", f"--num_processes={processes}"] * (processes > 1)
    endless = arguments(flags | {"--max_train_steps": 10_000, "--learning_rate": 3e-4})
    command = [sys.executable, *launch, "train.py", *endless]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    journal = flags["--output_dir"] / "training_log.jsonl"
    wait_until(lambda: journal.is_file() and '"step": 2' in journal.read_text(), 120, by=process)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == cli.INTERRUPTED_STATUS, told[-2000:]
    (left,) = checkpoints.checkpoint_folders(flags["--output_dir"])
    assert f"{left.name} is kept; --resume_from_checkpoint latest goes on from there" in told
    assert told.strip().splitlines()[-1] == f"error: {cli.INTERRUPTED}"
    step = int(left.name.removeprefix("checkpoint-"))
    flags |= {"--max_train_steps": step + 2, "--learning_rate": 3e-4, "--per_gpu_batch_size": processes}
    whole = flags | {"--output_dir": tmp_path / "whole"}
    assert [run(each, monkeypatch) for each in (flags | {"--resume_from_checkpoint": "latest"}, whole)] == [0, 0]
    assert len(log(whole)) == step + 2
    assert [path.name for path in checkpoints.checkpoint_folders(flags["--output_dir"])] == [f"checkpoint-{step + 2}"]
    assert relative_difference(log(flags), log(whole)) < 1e-4
    assert relative_difference(log(whole)[:2], log(whole)[-2:]) > 1e-2  # a control


def test_a_second_interrupt_ends_at_once(monkeypatch):
    """But one that comes with the first is a launcher's, which passes it on."""
    now, trainer = [10.0], SimpleNamespace(interrupted=None)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    Trainer._note_interrupt(trainer, signal.SIGINT, None)
    now[0] += loop.PATIENCE - 0.1
    Trainer._note_interrupt(trainer, signal.SIGINT, None)
    assert trainer.interrupted == 10
    now[0] += 0.2
    with pytest.raises(cli.Interrupted):
        Trainer._note_interrupt(trainer, signal.SIGINT, None)


def test_what_a_resumed_run_must_have_in_common():
    """Settings that the weights depend on: all that are not declared otherwise, so that a new one is not forgotten."""
    names = TrainingSettings(output_dir="o").affecting(LATENTS).keys()
    assert {"seed", "learning_rate", "max_grad_norm", "resample", "overfit", "lr_scheduler", "use_ema"} <= names
    assert not {"output_dir", "max_train_steps", "num_workers", "validation_image", "cpu", "cache_dir"} & names


def test_a_used_output_folder_is_refused(flags, monkeypatch, capsys):
    assert run(flags | {"--max_train_steps": 1}, monkeypatch) == 0
    before = sorted(path.name for path in flags["--output_dir"].iterdir())
    assert run(flags | {"--max_train_steps": 1}, monkeypatch) == 2
    assert "holds checkpoint-1 of an earlier run" in capsys.readouterr().err
    assert sorted(path.name for path in flags["--output_dir"].iterdir()) == before


@pytest.mark.slow
def test_resuming_another_training_is_refused(flags, monkeypatch, capsys):
    assert run(flags | {"--max_train_steps": 1}, monkeypatch) == 0
    assert run(flags | {"--trainable": "all", "--resume_from_checkpoint": "latest"}, monkeypatch) == 2
    assert "trained other parameters" in capsys.readouterr().err
    assert run(flags | {"--optimizer": "muon", "--resume_from_checkpoint": "latest"}, monkeypatch) == 2
    assert "its run used AdamW, this one Muon; resume with the same --optimizer" in capsys.readouterr().err
