"""The benchmarks run, on networks and pictures of a size that says nothing about speed."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import denoise, gpu, job
from benchmarks.timing import in_a_process, seconds_in_turn

TINY = {"block_out_channels": (32, 32, 64, 64), "num_attention_heads": (2, 2, 4, 4)}


@pytest.fixture
def tiny_networks(monkeypatch):
    """The small configuration made tiny."""
    monkeypatch.setitem(denoise.CONFIGS, "small", TINY)
    monkeypatch.setitem(job.VAE_SHARE, "small", 4)


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_of_a_gpu_runs_on_a_cpu(tiny_networks, monkeypatch, tmp_path, capsys):
    flags = ["--device", "cpu", "--config", "small", "--dtypes", "fp32", "--sizes", "64x64x2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu", *flags, "--no_compile", "--output", str(tmp_path / "gpu.json")])
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    seconds = found["runs"][0]["seconds"]
    assert {"naive fp32", "fused fp32", "ours fp32", "ours fp32, deep layers cached"} < set(seconds)
    assert {"decode 4 frames fp32, TAESD", "gradient of faces fp32", "training pass fp32"} < set(seconds)
    assert found["runs"][0]["modelled_gib"] > 0
    assert all(times[0] > 0 for times in seconds.values())
    assert "| ours fp32, channels-last |" in capsys.readouterr().out


@pytest.mark.slow
def test_both_sides_of_the_whole_job_make_the_same_latents(tiny_networks, tmp_path):
    job.write_networks(tmp_path, "small")
    poses = [Image.fromarray(x) for x in np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)]

    def latents(side, **options):
        pipeline = side.from_pretrained(tmp_path)
        pipeline.set_progress_bar_config(disable=True)
        # PoseNet's last layer starts at zero.
        torch.nn.init.normal_(pipeline.pose_net.final_proj.weight, std=0.1, generator=torch.Generator().manual_seed(1))
        options |= {"num_inference_steps": 1, "generator": torch.Generator().manual_seed(0)}
        return pipeline(poses[0], poses, torch.ones(512), 64, 64, output_type="latent", **options).frames

    ours, plain = latents(job.AnimationPipeline), latents(job.PlainPipeline)
    assert (plain - ours).abs().max() < 1e-3 * ours.abs().max()
    other = latents(job.AnimationPipeline, guidance_scale=2.0)
    assert (other - ours).abs().max() > 1e-2 * ours.abs().max()


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_of_the_whole_job_runs(tiny_networks, monkeypatch, capsys):
    flags = ["--frames", "10", "--steps", "1", "--height", "64", "--width", "64", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    job.main()
    assert "the whole job's ratio is" in capsys.readouterr().out


def test_calls_are_timed_in_turn_once_they_are_steady():
    order = []
    seconds = seconds_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert order == ["a", "b"] * (len(order) // 2)
    assert 2 * (1 + 3) <= len(order) <= 2 * (5 + 3)


@pytest.mark.slow
@pytest.mark.long
def test_a_process_answers_for_each_call():
    calls = in_a_process(_calls, 3)
    assert calls["plus"]().tolist() == [4.0, 5.0]
    assert calls["times"]().tolist() == [3.0, 6.0]


def _calls(number):
    return {"plus": lambda: torch.tensor([1, 2]) + number, "times": lambda: torch.tensor([1, 2]) * number}
