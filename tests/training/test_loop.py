"""Training as a user runs it: curves, checkpoints, several processes, adapters, overfitting."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.utils.other import get_free_port
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file

from animation.commands import inference_basic
from animation.evaluation.metrics import psnr
from animation.flags import parse
from animation.media.images import FrameFolder
from animation.training import checkpoint as checkpoints
from animation.training.model import idle_parameters, load_models
from animation.training.settings import TrainingSettings
from animation.weights.loading import load_unet, load_vae, new_unet
from tests import synthetic
from tests.training.runs import ROOT, arguments, equal, finetune, log, relative_difference, run, trainer, weights


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
def test_two_processes_give_the_curve_of_one(flags, monkeypatch, tmp_path):
    flags |= {"--learning_rate": 3e-4}
    two = flags | {"--output_dir": tmp_path / "two", "--gradient_accumulation_steps": 2}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={get_free_port()}"]
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


@pytest.mark.parametrize("name", ["face_loss_weight", "temporal_loss_weight"])
def test_a_weight_is_linear_in_the_loss(flags, name):
    def loss(weight):
        run_ = trainer(flags, **{name: weight})
        return run_._optimize(iter(run_._loader()))[0]

    none, one, three = map(loss, (0, 1, 3))
    assert three - one == pytest.approx(2 * (one - none), rel=1e-4)
    assert three > 1.01 * none  # there are faces, and changes


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


def test_nan_is_an_error(flags, checkpoint, monkeypatch, capsys, tmp_path):
    state = torch.load(checkpoint / "Animation" / "unet.pth", weights_only=True)
    state["conv_out.bias"] = state["conv_out.bias"] * float("nan")
    torch.save(state, tmp_path / "unet.pth")
    broken = finetune(checkpoint) | {"--unet_model_finetune_path": tmp_path / "unet.pth"}
    assert run(flags | broken, monkeypatch) == 1
    assert "error: the loss is nan at step 1" in capsys.readouterr().err


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
