"""Training of both kinds of VAE: the loss falls, the result loads, a resumed run is the same."""

import json
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import AutoencoderKLTemporalDecoder, AutoencoderTiny
from safetensors.torch import load_file

import train_vae
from animation import cli
from animation.training.vae import VaeLoss
from animation.weights.loading import load_vae
from tests import synthetic


@pytest.fixture
def flags(tmp_path):
    """Twelve steps on one clip of 64×64."""
    (clip,) = synthetic.write_clips(tmp_path / "clips", 1, (64, 64), 6)
    return {
        "--frames": clip,
        "--width": 64,
        "--height": 64,
        "--sample_n_frames": 2,
        "--max_train_steps": 12,
        "--checkpointing_steps": 6,
        "--learning_rate": 3e-3,
        "--num_workers": 0,
        "--seed": 1,
    }


@pytest.fixture(params=["AutoencoderKLTemporalDecoder", "AutoencoderTiny"])
def config(request, tmp_path):
    """A folder with the config of a small VAE and no weights."""
    if request.param == "AutoencoderTiny":
        vae = AutoencoderTiny(
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(16,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        )
    else:
        vae = synthetic.tiny_components()["vae"]
    vae.save_config(tmp_path / "config")
    return tmp_path / "config"


def run(monkeypatch, flags):
    arguments = [str(part) for pair in flags.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["train_vae.py", "--cpu", *arguments])
    status = 0
    try:
        cli.run(train_vae.main)
    except SystemExit as error:
        status = error.code
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return status


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_both_kinds_learn_and_resume(monkeypatch, flags, config, tmp_path):
    flags |= {"--vae": config}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(monkeypatch, flags | {"--output_dir": whole}) == 0
    assert min(losses(whole)[-3:]) < 0.7 * losses(whole)[0]
    half = flags | {"--output_dir": halves, "--max_train_steps": 6}
    assert run(monkeypatch, half) == 0
    assert run(monkeypatch, half | {"--max_train_steps": 12, "--resume_from_checkpoint": "latest"}) == 0
    assert losses(halves) == losses(whole)
    files = [folder / "checkpoint-12" / "vae" / "diffusion_pytorch_model.safetensors" for folder in (whole, halves)]
    found, expected = map(load_file, files)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    vae = load_vae(whole / "checkpoint-12" / "vae")
    if isinstance(vae, AutoencoderKLTemporalDecoder):
        assert vae.config.scaling_factor != 0.18215
    goes_on = flags | {"--vae": whole / "checkpoint-12" / "vae", "--output_dir": tmp_path / "on"}
    assert run(monkeypatch, goes_on | {"--max_train_steps": 1}) == 0
    assert losses(tmp_path / "on")[0] < 0.8 * losses(whole)[0]


def test_a_tiny_vae_learns_from_a_teacher():
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    images, taught = torch.rand(1, 2, 3, 64, 64) * 2 - 1, torch.randn(1, 2, 4, 8, 8)
    with torch.no_grad():
        loss, latents = VaeLoss(tiny, 0.0)(images, torch.zeros(1, 2, 4, 8, 8), taught)
        decoded = tiny.decode(taught.flatten(0, 1)).sample
    expected = (decoded - images[0]).abs().mean() + (latents - taught[0]).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_divergence_closed_form(monkeypatch):
    """For a posterior N(m, s²): (m² + s² − 1 − ln s²)/2."""
    vae = synthetic.tiny_components()["vae"]
    with torch.no_grad():
        vae.quant_conv.weight.zero_()
        vae.quant_conv.bias[:4], vae.quant_conv.bias[4:] = 3.0, 2.0
    images, noise = torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 1, 4, 8, 8)
    with torch.no_grad():
        with_it, without = (VaeLoss(vae, weight)(images, noise)[0].item() for weight in (1.0, 0.0))
    assert with_it - without == pytest.approx((9 + torch.tensor(2.0).exp().item() - 1 - 2) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--vae": "none"}, "--vae none: no config.json"),
        ({"--sample_n_frames": 9}, "fewer than --sample_n_frames 9"),
        ({"--learning_rate": -1}, "--learning_rate -1.0"),
        ({"--width": 65}, "width 65"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, flags, config, tmp_path, changes, message):
    assert run(monkeypatch, flags | {"--vae": config, "--output_dir": tmp_path / "out"} | changes) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
