"""Training as a user runs it: curves, checkpoints, a kill and a resume, several processes, adapters, overfitting."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradScalerKwargs
from diffusers import UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

import train_single
from animation import cli
from animation.commands import inference_basic, train
from animation.errors import InputError
from animation.evaluation.metrics import psnr
from animation.flags import LATENTS, add_flags, parse
from animation.media.images import FrameFolder
from animation.training import checkpoint as checkpoints
from animation.training import engine, loop
from animation.training import settings as settings_module
from animation.training.clips import Bucket
from animation.training.loop import Trainer
from animation.training.model import idle_parameters, load_models
from animation.training.settings import OPTIMIZERS, TrainingSettings
from animation.training.validation import Validation
from animation.weights.layout import fill_in
from animation.weights.loading import load_unet, load_vae, new_unet
from tests import synthetic
from tests.face_models import write_face_models

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fresh_engine():
    """accelerate keeps its state in the process: each run here starts without."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three clips of 128×128, their list, and face models."""
    folder = tmp_path_factory.mktemp("data")
    clips = synthetic.write_clips(folder / "rec", 3, (128, 128), 6)
    (folder / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
    write_face_models(folder / "faces")
    return folder


@pytest.fixture
def flags(data, checkpoint, tmp_path):
    """A small run: three steps of two frames of 128×128."""
    return {
        "--pretrained_model_name_or_path": checkpoint / "SVD",
        "--data_path": data / "list.txt",
        "--dataset_width": 128,
        "--dataset_height": 128,
        "--sample_n_frames": 2,
        "--face_models": data / "faces",
        "--cache_dir": data / "cache",
        "--num_workers": 0,
        "--output_dir": tmp_path / "out",
        "--max_train_steps": 3,
        "--learning_rate": 1e-3,
        "--seed": 7,
        "--report_to": "none",
        "--cpu": None,
    }


def arguments(flags):
    return [str(part) for flag, value in flags.items() for part in (flag, value) if part is not None]


def finetune(checkpoint):
    names = {"posenet_model": "pose_net", "face_encoder": "face_encoder", "unet_model": "unet"}
    paths = {f"--{flag}_finetune_path": checkpoint / "Animation" / f"{name}.pth" for flag, name in names.items()}
    return {"--finetune_mode=True": None, **paths}


def run(flags, monkeypatch, script=train):
    """Run a script in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["script", *arguments(flags)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run(script.main)
    except SystemExit as error:
        return error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return 0


def log(flags, name="loss"):
    lines = (flags["--output_dir"] / "training_log.jsonl").read_text().splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


def weights(folder):
    return {
        f"{part}.{name}": tensor
        for part in ("pose_net", "face_encoder", "unet")
        for name, tensor in torch.load(folder / f"{part}.pth", weights_only=True).items()
    }


def equal(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def relative_difference(found, expected):
    return float(np.max(np.abs(np.divide(found, expected) - 1)))


@pytest.mark.slow
def test_a_run_writes_checkpoints_that_inference_reads(flags, case, data, monkeypatch, tmp_path):
    validation = {
        "--validation_steps": 3,
        "--validation_image": case / "reference.png",
        "--validation_inference_steps": 2,
        "--validation_control_folder": case / "poses",
        "--validation_image_folder": case / "poses",
    }
    flags |= {"--checkpointing_steps": 1, "--checkpoints_total_limit": 2, "--report_to": "tensorboard"}
    assert run(flags | validation, monkeypatch) == 0
    out = flags["--output_dir"]
    assert [path.name for path in checkpoints.checkpoint_folders(out)] == ["checkpoint-2", "checkpoint-3"]
    last = out / "checkpoint-3"
    assert sorted(path.name for path in last.iterdir()) == [
        "checkpoint.json",
        "face_encoder.pth",
        "face_encoder.safetensors",
        "pose_net.pth",
        "pose_net.safetensors",
        "training_state",
        "unet.pth",
        "unet.safetensors",
    ]
    assert json.loads((last / "checkpoint.json").read_text())["face_channel_order"] == "bgr"
    for part in ("pose_net", "face_encoder", "unet"):
        assert equal(load_file(last / f"{part}.safetensors"), torch.load(last / f"{part}.pth", weights_only=True))
    assert len(log(flags)) == len(log(flags, "grad_norm")) == len(log(flags, "samples_per_second")) == 3
    assert log(flags, "learning_rate") == [1e-3] * 3
    assert len(log(flags, "validation/psnr")) == 1
    assert (out / "validation" / "step-3" / "animation.mp4").is_file()
    assert list((out / "logs").rglob("events.out.tfevents*"))
    names = {"unet": "unet", "posenet": "pose_net", "face_encoder": "face_encoder"}
    inference = {
        **{f"--{flag}_model_name_or_path": last / f"{name}.pth" for flag, name in names.items()},
        "--pretrained_model_name_or_path": flags["--pretrained_model_name_or_path"],
        "--face_models": data / "faces",
        "--validation_image": case / "reference.png",
        "--validation_control_folder": case / "poses",
        "--output_dir": tmp_path / "video",
        "--height": 128,
        "--width": 64,
        "--num_inference_steps": 1,
    }
    assert run(inference, monkeypatch, inference_basic) == 0
    assert json.loads((tmp_path / "video" / "run.json").read_text())["face_channel_order"] == "bgr"


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
    journal, deadline = flags["--output_dir"] / "training_log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.is_file() and '"step": 4' in journal.read_text()):
        time.sleep(0.01)
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
    journal, deadline = flags["--output_dir"] / "training_log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.is_file() and '"step": 2' in journal.read_text()):
        time.sleep(0.01)
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


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(flags, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags |= {"--learning_rate": 3e-4}
    two = flags | {"--output_dir": tmp_path / "two", "--gradient_accumulation_steps": 2}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    process = subprocess.run([*launch, "train.py", *arguments(two)], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    curve = log(two)
    splits = {"batch": {"--per_gpu_batch_size": 4}, "accumulated": {"--gradient_accumulation_steps": 4}}
    for name, split in splits.items():
        one = flags | split | {"--output_dir": tmp_path / name}
        assert run(one, monkeypatch) == 0
        assert relative_difference(log(one), curve) < 1e-4
        assert relative_difference(log(one, "grad_norm"), log(two, "grad_norm")) < 1e-3
    other = flags | {"--output_dir": tmp_path / "other", "--per_gpu_batch_size": 4, "--seed": 8}
    assert run(other, monkeypatch) == 0
    assert relative_difference(log(other), curve) > 1e-2  # a control


@pytest.mark.slow
def test_cached_latents_change_nothing(flags, monkeypatch, tmp_path):
    cached = flags | {"--output_dir": tmp_path / "cached", "--cache_latents": None, "--cache_dir": tmp_path / "cache"}
    again = cached | {"--output_dir": tmp_path / "again"}
    for each in (flags, cached, again):
        assert run(each, monkeypatch) == 0
    assert list((tmp_path / "cache").glob("latents-*/128x128/*/*.npy"))
    assert relative_difference(log(cached), log(flags)) < 1e-5
    assert log(again) == log(cached)


@pytest.mark.slow
def test_mixed_precision_with_every_lever_follows_float32(flags, case, monkeypatch, tmp_path):
    validation = {
        "--validation_steps": 2,
        "--validation_image": case / "reference.png",
        "--validation_control_folder": case / "poses",
        "--validation_inference_steps": 1,
    }
    levers = {"--mixed_precision": "bf16", "--gradient_checkpointing": None, "--use_ema": None}
    mixed = flags | validation | levers | {"--output_dir": tmp_path / "mixed"}
    assert run(flags, monkeypatch) == run(mixed, monkeypatch) == 0
    assert 0 < relative_difference(log(mixed), log(flags)) < 0.02
    assert (tmp_path / "mixed" / "validation" / "step-2" / "animation.mp4").is_file()
    state = weights(tmp_path / "mixed" / "checkpoint-3")
    frozen = "unet.conv_in.weight"
    assert torch.equal(state[frozen], weights(flags["--output_dir"] / "checkpoint-3")[frozen])  # never rounded
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


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


def trainer(flags, **changes):
    settings = parse(TrainingSettings, None, arguments(flags))
    for name, value in changes.items():
        setattr(settings, name, value)
    return Trainer(settings, settings.read_inputs())


@pytest.mark.parametrize("trainable", ["method", "all"])
def test_what_is_trained(flags, trainable):
    run_ = trainer(flags, trainable=trainable, conditioning_dropout_prob=0)
    run_.optimizer.zero_grad = lambda: None
    run_._optimize(iter(run_._loader()))
    without = {name for name, p in run_.parts.named_parameters() if p.requires_grad and p.grad is None}
    frozen = {name for name, p in run_.parts.named_parameters() if not p.requires_grad}
    idle = {f"unet.{name}" for name in idle_parameters(run_.parts.unet)}
    assert without == set()
    assert idle
    rest = {name for name, _ in run_.parts.named_parameters() if name.startswith("unet.") and "attentions" not in name}
    assert frozen == (idle if trainable == "all" else idle | rest)


@pytest.fixture
def plain_svd(checkpoint, tmp_path):
    """An SVD folder with the UNet that SVD has, and that UNet."""
    svd = tmp_path / synthetic.SVD_FOLDER
    shutil.copytree(checkpoint / "SVD" / synthetic.SVD_FOLDER, svd)
    config = UNetSpatioTemporalConditionModel.load_config(svd / "unet" / "config.json")
    plain = UNetSpatioTemporalConditionModel.from_config(config)
    synthetic.randomise(plain, seed=3)
    save_file(plain.state_dict(), svd / "unet" / "diffusion_pytorch_model.safetensors")
    return svd, plain


@pytest.mark.slow
def test_a_new_adapter_starts_as_a_copy(plain_svd):
    svd, plain = plain_svd
    state, expected, copies = new_unet(svd).state_dict(), plain.state_dict(), 0
    for name, tensor in state.items():
        source = name.replace(".processor.id_to_", ".to_")
        assert torch.equal(tensor, expected[source])
        copies += source != name
    assert copies > 0


@torch.no_grad()
def test_training_from_svd_starts_from_its_unet(flags, plain_svd):
    """New face tokens are zero. All that they do is what alignment does with nothing: it adds the features' mean."""
    svd, plain = plain_svd
    settings = parse(TrainingSettings, None, arguments(flags | {"--pretrained_model_name_or_path": svd}))
    parts, _ = load_models(settings)
    torch.manual_seed(0)
    latents, image_latents = torch.randn(1, 2, 4, 8, 8), torch.randn(1, 4, 8, 8)
    sigma, token = torch.tensor([1.3]), torch.randn(1, 1, synthetic.WIDTH)
    embedding, poses = torch.randn(1, 512), torch.randn(1, 2, 3, 64, 64)
    assert not parts.face_encoder(embedding, token).any()
    assert not parts.pose_net(poses[0]).any()

    def predict():
        return parts(latents, image_latents, sigma, token, token, embedding, poses)

    def predict_plainly():
        sample = torch.cat([latents / (sigma**2 + 1) ** 0.5, image_latents[:, None].expand(-1, 2, -1, -1, -1)], dim=2)
        return plain(sample, 0.25 * sigma.log(), token, torch.tensor([[6, 127, 0.02]]), return_dict=False)[0]

    def distance(found, expected):
        return ((found - expected).norm() / expected.norm()).item()

    unchanged = distance(predict(), predict_plainly())
    for name, module in plain.named_modules():
        if name.endswith("attn2.to_v") and "temporal" not in name:
            module.register_forward_hook(lambda _module, _inputs, value: value + value.mean((1, 2), keepdim=True))
    assert distance(predict(), predict_plainly()) < 1e-5
    synthetic.randomise(parts.face_encoder, seed=5)  # a control
    assert distance(predict(), predict_plainly()) > 3 * unchanged


@pytest.mark.slow
def test_averaged_weights(flags, monkeypatch):
    flags |= {"--use_ema": None, "--max_train_steps": 2, "--checkpointing_steps": 1}
    assert run(flags, monkeypatch) == 0
    first, second = (checkpoints.read_tensors(flags["--output_dir"] / f"checkpoint-{i}", "parameters") for i in (1, 2))
    exported = weights(flags["--output_dir"] / "checkpoint-2")
    for name in first:
        average = first[name] * (2 / 11) + second[name] * (9 / 11)
        assert torch.allclose(exported[name], average, atol=1e-6)
    name = next(iter(first))
    assert not torch.allclose(exported[name], second[name], atol=1e-6)


@pytest.mark.slow
def test_adapters_are_merged_into_the_released_layout(flags, checkpoint):
    run_ = trainer(flags | finetune(checkpoint) | {"--lora_rank": 3, "--lora_alpha": 6})
    assert all(".lora_" in name for name in run_.trainable)
    batches = iter(run_._loader())
    for _ in range(2):
        run_._optimize(batches)
        run_.step += 1
    run_.output_dir.mkdir(parents=True)
    run_.save()
    original, folder = weights(checkpoint / "Animation"), run_.output_dir / "checkpoint-2"
    merged = weights(folder)
    changed = {name for name in merged if not torch.equal(merged[name], original[name])}
    assert merged.keys() == original.keys()
    assert changed
    assert all("attn" in name and name.startswith("unet.") for name in changed)
    unet = load_unet(folder / "unet.pth", checkpoint / "SVD")
    torch.manual_seed(0)
    inputs = (torch.randn(1, 2, 8, 16, 16), torch.tensor([0.3]), torch.randn(1, 5, 64), torch.tensor([[6, 127, 0.02]]))
    before = load_unet(checkpoint / "Animation" / "unet.pth", checkpoint / "SVD")
    with torch.no_grad():
        found, expected, untrained = (model(*inputs).sample for model in (unet, run_.parts.unet, before))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, untrained, atol=1e-3)


@pytest.mark.slow
def test_bad_clips_are_named_and_too_many_stop_the_run(flags, data, monkeypatch, tmp_path, caplog):
    clips = synthetic.write_clips(tmp_path / "bad", 2, (128, 128), 6)
    for path in (clips[0] / "images").iterdir():
        path.write_bytes(b"nothing")
    (tmp_path / "list.txt").write_text((data / "list.txt").read_text() + f"{clips[0]}\n{clips[1]}\n")
    flags |= {"--data_path": tmp_path / "list.txt", "--per_gpu_batch_size": 5, "--max_train_steps": 2}
    with caplog.at_level("INFO", "animation"):
        assert run(flags | {"--max_bad_clips": 0.3}, monkeypatch) == 0
    assert log(flags, "bad_clips") == [1, 1]
    assert f"skipped: {clips[0]}: images/frame_" in caplog.text
    assert "(1 of 5 clips so far)" in caplog.text
    assert run(flags | {"--output_dir": tmp_path / "stopped"}, monkeypatch) == 2
    assert not checkpoints.checkpoint_folders(tmp_path / "stopped")


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


def test_what_a_resumed_run_must_have_in_common():
    """Settings that the weights depend on: all that are not declared otherwise, so that a new one is not forgotten."""
    names = TrainingSettings(output_dir="o").affecting(LATENTS).keys()
    assert {"seed", "learning_rate", "max_grad_norm", "resample", "overfit", "lr_scheduler", "use_ema"} <= names
    assert not {"output_dir", "max_train_steps", "num_workers", "validation_image", "cpu", "cache_dir"} & names


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


def test_nan_is_an_error(flags, checkpoint, monkeypatch, capsys, tmp_path):
    state = torch.load(checkpoint / "Animation" / "unet.pth", weights_only=True)
    state["conv_out.bias"] = state["conv_out.bias"] * float("nan")
    torch.save(state, tmp_path / "unet.pth")
    broken = finetune(checkpoint) | {"--unet_model_finetune_path": tmp_path / "unet.pth"}
    assert run(flags | broken, monkeypatch) == 1
    assert "error: the loss is nan at step 1" in capsys.readouterr().err


def test_settings_are_checked_from_python(flags):
    settings = parse(TrainingSettings, None, arguments(flags))
    settings.sample_n_frames = 0
    with pytest.raises(InputError, match="sample_n_frames"):
        settings.read_inputs()


@pytest.fixture
def shallow_checkpoint(tmp_path, monkeypatch):
    """A UNet of two levels, whose lowest is larger than one pixel at 64×64, and a VAE of nearly no variance."""
    shallow = {
        "block_out_channels": (32, 64),
        "num_attention_heads": (2, 4),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    }
    monkeypatch.setattr(synthetic, "UNET_CONFIG", synthetic.UNET_CONFIG | shallow)
    folder = synthetic.write_checkpoint(tmp_path / "shallow")
    vae = folder / "SVD" / synthetic.SVD_FOLDER / "vae"
    state = {name: tensor.clone() for name, tensor in load_file(vae / "diffusion_pytorch_model.safetensors").items()}
    state["quant_conv.weight"][4:] = 0
    state["quant_conv.bias"][4:] = -20
    save_file(state, vae / "diffusion_pytorch_model.safetensors")
    config = json.loads((vae / "config.json").read_text()) | {"scaling_factor": 0.7}  # latents of about unit size
    (vae / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_overfitting_one_clip(flags, shallow_checkpoint, data, monkeypatch, tmp_path):
    """Fixed noise and σ (162, by this seed): the loss falls, and inference comes nearer to the clip."""
    (clip,) = synthetic.write_clips(tmp_path / "clip", 1, (64, 64), 4)
    (tmp_path / "list.txt").write_text(f"{clip}\n")
    flags |= {
        "--pretrained_model_name_or_path": shallow_checkpoint / "SVD",
        "--data_path": tmp_path / "list.txt",
        "--dataset_width": 64,
        "--dataset_height": 64,
        "--sample_n_frames": 4,
        "--trainable": "all",
        "--overfit": None,
        "--conditioning_dropout_prob": 0,
        "--seed": 28,
        "--max_train_steps": 40,
    }
    untrained = flags | {"--max_train_steps": 1, "--learning_rate": 0, "--output_dir": tmp_path / "untrained"}
    for each in (flags, untrained):
        assert run(each, monkeypatch) == 0
    losses = log(flags)
    assert losses[0] == log(untrained)[0]
    assert losses[-1] < losses[0] / 20

    vae = load_vae(shallow_checkpoint / "SVD" / synthetic.SVD_FOLDER / "vae")
    frames = np.stack([np.asarray(frame) for frame in FrameFolder(clip / "images")])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode(), num_frames=4).sample
    round_trip = (decoded / 2 + 0.5).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).numpy()

    def distance(folder):
        """PSNR of what `inference_basic.py` makes of a checkpoint."""
        parts = {"unet": "unet", "posenet": "pose_net", "face_encoder": "face_encoder"}
        inference = {
            **{f"--{flag}_model_name_or_path": folder / f"{name}.pth" for flag, name in parts.items()},
            "--pretrained_model_name_or_path": shallow_checkpoint / "SVD",
            "--face_models": data / "faces",
            "--validation_image": clip / "images" / "frame_1.png",
            "--validation_control_folder": clip / "poses",
            "--output_dir": folder / "video",
            "--height": 64,
            "--width": 64,
            "--num_inference_steps": 2,
            "--guidance_scale": 1,
            "--tile_size": 4,
            "--frames_overlap": 1,
            "--seed": 0,
        }
        assert run(inference, monkeypatch, inference_basic) == 0
        made = FrameFolder(folder / "video" / "animated_images")
        return psnr(np.stack([np.asarray(frame) for frame in made]), round_trip)

    assert distance(flags["--output_dir"] / "checkpoint-40") > distance(tmp_path / "untrained" / "checkpoint-1") + 1
