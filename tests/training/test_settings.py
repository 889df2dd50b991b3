"""The flags of training, what they refuse, and how it is launched."""

import argparse
import os
import shutil
import signal
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.utils import GradScalerKwargs
from PIL import Image

import train_single
from animation.errors import InputError
from animation.flags import add_flags, parse
from animation.training import engine
from animation.training import settings as settings_module
from animation.training.clips import Bucket
from animation.training.settings import TrainingSettings
from animation.training.validation import Validation
from animation.weights.layout import fill_in
from tests import synthetic
from tests.training.runs import ROOT, arguments, run


@pytest.mark.parametrize("name", ["train", "finetune", "train_single"])
def test_the_commands_parse(name, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')  # tells what it is asked for
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VALIDATION": "a case", "OUTPUT": "out"}
    command = ["bash", f"scripts/command_{name}.sh", "--seed=3"]
    asked = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert asked.startswith("-m\nanimation.launch\ntrain.py\n")
    settings = parse(TrainingSettings, None, asked.splitlines()[3:])
    settings.check()
    assert settings.finetune_mode is (name == "finetune")
    assert settings.num_train_epochs == (600 if name == "finetune" else 6000)
    assert (settings.data_path is None) is (name != "train_single")
    assert (settings.output_dir, settings.validation_image, settings.seed) == ("out", "a case/reference.png", 3)


def launch(*parts):
    """The status and the error lines of a training that is launched as the command scripts do."""
    command = [sys.executable, "-m", "animation.launch", *map(str, parts)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return process.returncode, [line for line in process.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_launching_ends_with_the_scripts_status(flags, processes):
    flags |= {"--learning_rate": -1}
    several = ["--multi_gpu", "--num_processes=2"] if processes > 1 else []
    status, errors = launch(*several, "train.py", *arguments(flags))
    assert status == 2
    assert errors == ["error: --learning_rate -1.0 is below 0; give 0 or more"]


@pytest.mark.slow
def test_launching_a_failure_ends_with_1(tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit(1)")
    (tmp_path / "killed.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert launch(tmp_path / "fails.py", "-")[0] == 1
    assert launch(tmp_path / "killed.py", "-")[0] == 128 + signal.SIGKILL


def test_a_stretched_validation_is_told(data, case, caplog):
    settings = TrainingSettings(
        output_dir="o",
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        face_models=str(data / "faces"),
    )
    for size, told in (((64, 128), False), ((128, 128), True)):
        caplog.clear()
        Validation(settings, settings.read_validation(), [Bucket(*size, [])], {}, "bgr")
        assert ("the validation's photo of 64×128 (width × height) stretched to 128×128" in caplog.text) is told
        assert ("poses of 64×128 (width × height) stretched" in caplog.text) is told


RELEASED_FLAGS = """
    pretrained_model_name_or_path output_dir data_root_path rec_data_path vec_data_path data_path dataset_width
    dataset_height finetune_mode posenet_model_finetune_path face_encoder_finetune_path unet_model_finetune_path
    validation_image validation_control_folder validation_image_folder num_workers lr_warmup_steps sample_n_frames
    learning_rate per_gpu_batch_size num_train_epochs max_train_steps mixed_precision gradient_accumulation_steps
    checkpointing_steps validation_steps gradient_checkpointing checkpoints_total_limit resume_from_checkpoint use_ema
    use_8bit_adam conditioning_dropout_prob seed report_to lr_scheduler adam_beta1 adam_beta2 adam_weight_decay
    adam_epsilon max_grad_norm allow_tf32 scale_lr logging_dir revision
"""


def test_flags():
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainingSettings)
    assert {f"--{name}" for name in RELEASED_FLAGS.split()} <= set(parser._option_string_actions)
    for text, value in (("--finetune_mode", True), ("--finetune_mode=True", True), ("--finetune_mode=false", False)):
        assert parse(TrainingSettings, None, ["--output_dir", "o", text]).finetune_mode is value
    assert parse(TrainingSettings, None, ["--output_dir", "o"]).finetune_mode is False
    with pytest.raises(InputError, match="perhaps"):
        parse(TrainingSettings, None, ["--output_dir", "o", "--finetune_mode=perhaps"])


def test_flags_of_other_scripts_are_met_with_one_line():
    for name, reason in TrainingSettings.REFUSED.items():
        with pytest.raises(InputError) as refused:
            parse(TrainingSettings, None, ["--output_dir", "o", f"--{name}", "1"])
        assert str(refused.value) == f"--{name} is not accepted here: {reason}"
    with pytest.raises(InputError, match="--data_path LIST --dataset_width W"):
        train_single.main()


def test_networks_that_are_not_named_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "Animation").mkdir(parents=True)
    (tmp_path / "checkpoints" / "Animation" / "unet.pth").touch()
    settings = fill_in(TrainingSettings(output_dir="o", posenet_model_finetune_path="mine.pth"))
    assert settings.unet_model_finetune_path == "checkpoints/Animation/unet.pth"
    assert settings.posenet_model_finetune_path == "mine.pth"
    assert settings.face_models == "models/antelopev2"


def test_gradients_are_not_clipped_by_default():
    assert TrainingSettings(output_dir="o").max_grad_norm == 0


def test_the_scale_of_the_loss_recovers_soon(monkeypatch):
    """The first steps in fp16 from zero face tokens lower it to below 1; torch doubles it every 2000 steps."""
    made = []
    monkeypatch.setattr(engine, "Accelerator", lambda **options: made.append(options) or Accelerator(cpu=True))
    engine.make_accelerator(TrainingSettings(output_dir="o", report_to="none"))
    (scaling,) = (h for h in made[0]["kwargs_handlers"] if isinstance(h, GradScalerKwargs))
    assert scaling.growth_interval <= 100


def test_the_validation_case(case, tmp_path):
    """The frames' folder is enough: its first frame is the photo, and poses/ beside it are the skeletons."""
    (clip,) = synthetic.write_clips(tmp_path, 1, (64, 64), 3, first=7)

    def read(**given):
        given = {f"validation_{name}": str(path) for name, path in given.items()}
        return TrainingSettings(output_dir="o", **given).read_validation()

    alone = read(image_folder=clip / "images")
    assert alone.photo.tobytes() == Image.open(clip / "images" / "frame_0.png").tobytes()
    assert [path.parent for path in alone.poses.paths] == [clip / "poses"] * 3
    assert [path.parent for path in alone.truth.paths] == [clip / "images"] * 3
    other = read(image_folder=clip / "images", control_folder=case / "poses", image=case / "reference.png")
    assert other.photo.tobytes() == Image.open(case / "reference.png").tobytes()
    assert other.poses.paths[0].parent == case / "poses"
    assert read(image=case / "reference.png", control_folder=case / "poses").truth is None
    assert read() is None
    shutil.rmtree(clip / "poses")
    with pytest.raises(InputError, match="give --validation_control_folder too"):
        read(image_folder=clip / "images")
    with pytest.raises(InputError, match="give --validation_image too"):
        read(control_folder=case / "poses")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--learning_rate": -1}, "--learning_rate -1.0 is below 0"),
        ({"--conditioning_dropout_prob": 0.5}, "--conditioning_dropout_prob 0.5 is above 0.333333"),
        ({"--seed": 2**32}, "--seed 4294967296 is above"),
        ({"--lora_alpha": -1}, "--lora_alpha -1.0"),
        ({"--validation_guidance_scale": "nan"}, "--validation_guidance_scale nan"),
        ({"--validation_image_folder": "x"}, "x: no such folder"),
        ({"--max_grad_norm": "inf"}, "--max_grad_norm inf is not a finite number"),
        ({"--resample": "sharp"}, "--resample: invalid choice: 'sharp'"),
        ({"--num_frames": 16}, "--num_frames is not accepted here: give --sample_n_frames"),
        ({"--cache_dir": "/proc/x"}, "/proc/x: cannot be written"),
        ({"--logging_dir": "/proc/x"}, "/proc/x: cannot be written"),
        ({"--lora_rank": 4}, "add --finetune_mode"),
        ({"--dataset_width": 100}, "width 100 is not a multiple of 64"),
        ({"--data_path": "none.txt"}, "none.txt: cannot be read"),
        ({"--face_models": "none"}, "none: the face models"),
        ({"--validation_image": "a.png"}, "give --validation_control_folder too"),
        ({"--use_8bit_adam": None}, "bitsandbytes is not installed"),
        ({"--optimizer": "muon", "--use_8bit_adam": None}, "--use_8bit_adam is of adamw"),
        ({"--temporal_loss_weight": 1, "--sample_n_frames": 1}, "--sample_n_frames 2 or more"),
        ({"--report_to": "wandb"}, "the package wandb is not installed"),
        ({"--bucket": "64:x"}, "--bucket 64:x"),
        ({"--mixed_precision": "fp16"}, "fp16 on a CPU"),
        ({"--resume_from_checkpoint": "checkpoint-9"}, "--resume_from_checkpoint checkpoint-9: no checkpoint"),
        ({"--finetune_mode": None, "--unet_model_finetune_path": "none.pth"}, "none.pth: no such file"),
    ],
)
def test_bad_input_is_one_line(flags, changes, message, monkeypatch, capsys):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None if name in ("wandb", "bitsandbytes") else name)
    assert run(flags | changes, monkeypatch) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not flags["--output_dir"].exists() or not list(flags["--output_dir"].glob("checkpoint-*"))


def test_settings_are_checked_from_python(flags):
    settings = parse(TrainingSettings, None, arguments(flags))
    settings.sample_n_frames = 0
    with pytest.raises(InputError, match="sample_n_frames"):
        settings.read_inputs()
