"""The recorded run of the original: every stage, every frame, through Python and through the script.

Skips where the recorded numbers are not on the machine.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from safetensors.torch import load_file

from animation.media.images import FrameFolder, load_photo
from animation.modules import attention_processor
from animation.modules.attention_processor import ImageTokenAttnProcessor
from animation.pipeline import AnimationPipeline
from tests.conftest import checkpoint_flags, checkpoint_paths, relative_error

TOLERANCE = 1e-4
CASES = {"case": "expected", "case_resized": "case_resized/expected"}


@pytest.fixture(scope="module")
def pipeline(reference):
    pipeline = AnimationPipeline.from_checkpoints(**checkpoint_paths(reference / "checkpoints"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def stages(reference):
    return load_file(reference / "expected" / "stages.safetensors")


def run(pipeline, folder, callback=None, **changes):
    settings = json.loads((folder / "settings.json").read_text())
    arguments = {
        "image": load_photo(folder / "reference.png"),
        "poses": FrameFolder(folder / "poses"),
        "face_embedding": np.load(folder / "face_embedding.npy"),
        "height": settings["height"],
        "width": settings["width"],
        "num_inference_steps": settings["num_inference_steps"],
        "guidance_scale": settings["guidance_scale"],
        "tile_size": settings["tile_size"],
        "overlap": settings["frames_overlap"],
        "decode_chunk_size": settings["decode_chunk_size"],
        "generator": torch.Generator().manual_seed(settings["seed"]),
        "callback_on_step_end": callback,
        **changes,
    }
    return pipeline(**arguments)


def furthest(found, folder):
    """The largest difference of a pixel between images and the recorded ones."""
    expected = [np.asarray(Image.open(path)) for path in FrameFolder(folder / "animated_images").paths]
    assert len(found) == len(expected)
    return max(np.abs(np.asarray(a).astype(int) - b).max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_frames_through_python(pipeline, reference, name):
    frames = run(pipeline, reference / name).frames[0]
    assert furthest(frames, reference / CASES[name]) <= 1
    shifted = [np.roll(np.asarray(frame), 1, axis=1) for frame in frames]
    assert furthest(shifted, reference / CASES[name]) > 1  # a control that must fail


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_frames_through_the_script(reference, tmp_path, name):
    folder = reference / name
    settings = json.loads((folder / "settings.json").read_text())
    flags = [
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "tile_size",
        "frames_overlap",
        "decode_chunk_size",
        "seed",
        "noise_aug_strength",
        "motion_bucket_id",
    ]
    command = [
        sys.executable,
        "inference_basic.py",
        "--dtype",
        "fp32",
        "--device",
        "cpu",
        "--validation_image",
        folder / "reference.png",
        "--validation_control_folder",
        folder / "poses",
        "--face_embedding",
        folder / "face_embedding.npy",
        "--output_dir",
        tmp_path,
        *checkpoint_flags(reference / "checkpoints"),
        *(f"--{flag}={settings[flag]}" for flag in flags),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    frames = FrameFolder(tmp_path / "animated_images")
    assert furthest(list(frames), reference / CASES[name]) <= 1


def test_stages(pipeline, reference, stages):
    seen = {}

    def keep(_pipeline, step, timestep, tensors):
        seen[f"latents_after_step_{step}"] = tensors["latents"].clone()
        seen.setdefault("timesteps", []).append(timestep)
        return {}

    run(pipeline, reference / "case", keep, output_type="latent")
    seen["timesteps"] = torch.stack(seen["timesteps"])
    seen["sigmas"] = pipeline.scheduler.sigmas
    folder = reference / "case"
    conditions = pipeline.encode(
        load_photo(folder / "reference.png"),
        FrameFolder(folder / "poses"),
        np.load(folder / "face_embedding.npy"),
        128,
        64,
        generator=torch.Generator().manual_seed(23123134),
    )
    seen["image_embedding"], seen["face_tokens"] = conditions.tokens[:, :1], conditions.tokens[:, 1:]
    seen["unet_cond_tokens"] = conditions.tokens
    seen["unet_time_ids"] = conditions.added_time_ids
    seen["unet_pose_latents"] = conditions.pose_latents[: len(stages["unet_pose_latents"])]
    seen["unet_cond_sample"] = torch.cat(
        [stages["unet_cond_sample"][:, :, :4], conditions.image_latents[:, None].expand(-1, 6, -1, -1, -1)], dim=2
    )
    for name, found in seen.items():
        assert relative_error(found, stages[name]) <= TOLERANCE, name
    outputs = {"unet_cond_out", "unet_uncond_out", "unet_uncond_sample", "unet_uncond_tokens", "unet_timestep"}
    assert set(seen) | outputs == set(stages)  # the rest are below


@torch.no_grad()
def call_unet(unet, stages, branch, pose=True, tokens=None):
    tokens = stages[f"unet_{branch}_tokens"] if tokens is None else tokens
    poses = stages["unet_pose_latents"][None] if pose and len(tokens) else None
    return unet(stages[f"unet_{branch}_sample"], stages["unet_timestep"], tokens, stages["unet_time_ids"], poses).sample


def test_unet_calls(pipeline, stages):
    expected = stages["unet_uncond_out"]
    assert relative_error(call_unet(pipeline.unet, stages, "cond"), stages["unet_cond_out"]) <= TOLERANCE
    assert relative_error(call_unet(pipeline.unet, stages, "uncond", pose=False), expected) <= TOLERANCE
    none = call_unet(pipeline.unet, stages, "uncond", tokens=stages["unet_uncond_tokens"][:0])
    assert relative_error(none, expected) <= TOLERANCE


def test_without_alignment_it_fails(pipeline, stages, monkeypatch):
    monkeypatch.setattr(attention_processor, "folding_pays", lambda *_: False)
    assert relative_error(call_unet(pipeline.unet, stages, "cond"), stages["unet_cond_out"]) <= TOLERANCE
    monkeypatch.setattr(attention_processor, "align_distribution", lambda features, target: features)
    assert relative_error(call_unet(pipeline.unet, stages, "cond"), stages["unet_cond_out"]) > 10 * TOLERANCE


def test_with_face_tokens_in_the_temporal_layers_it_fails(pipeline, stages):
    originals = pipeline.unet.attn_processors
    shown = {
        name: AttnProcessor2_0() if isinstance(processor, ImageTokenAttnProcessor) else processor
        for name, processor in originals.items()
    }
    assert sum(isinstance(processor, ImageTokenAttnProcessor) for processor in originals.values()) > 0
    pipeline.unet.set_attn_processor(shown)
    try:
        found = call_unet(pipeline.unet, stages, "cond")
    finally:
        pipeline.unet.set_attn_processor(originals)
    assert relative_error(found, stages["unet_cond_out"]) > 10 * TOLERANCE


def test_with_the_pose_in_both_branches_it_fails(pipeline, stages):
    assert relative_error(call_unet(pipeline.unet, stages, "uncond"), stages["unet_uncond_out"]) > 10 * TOLERANCE


def test_with_unweighted_windows_it_fails(pipeline, reference, stages, monkeypatch):
    monkeypatch.setattr("animation.sampling.window_weights", lambda size: [1.0] * size)
    latents = run(pipeline, reference / "case", output_type="latent").frames
    assert relative_error(latents, stages["latents_after_step_3"]) > 10 * TOLERANCE
