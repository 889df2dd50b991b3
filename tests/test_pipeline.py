"""The pipeline as users of diffusers expect it: types of output, hooks, determinism, other VAEs, saving."""

import copy
import json
from functools import partial

import accelerate
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, EulerDiscreteScheduler
from transformers import CLIPImageProcessorPil

from animation import pipeline as pipeline_module
from animation.errors import InputError, NonFiniteError
from animation.media.images import FrameFolder, load_photo
from animation.pipeline import AnimationPipeline
from animation.sampling import initial_latents
from tests.conftest import relative_error
from tests.synthetic import SCHEDULER_CONFIG, randomise


@pytest.fixture
def pipe(components):
    pipe = AnimationPipeline(
        **components,
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessorPil(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inputs(case):
    return {
        "image": load_photo(case / "reference.png"),
        "poses": list(FrameFolder(case / "poses")),
        "face_embedding": np.load(case / "face_embedding.npy"),
    }


def run(pipe, inputs, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "tile_size": 4, "overlap": 1}
    return pipe(**inputs, generator=generator, **(options | changes)).frames


def tiny_vae(seed=0):
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    return randomise(vae, seed)


@pytest.mark.slow
def test_output_types_agree(pipe, inputs):
    images = run(pipe, inputs)
    assert (len(images), len(images[0]), images[0][0].size) == (1, 8, (64, 64))
    array = run(pipe, inputs, output_type="np")
    tensor = run(pipe, inputs, output_type="pt")
    latents = run(pipe, inputs, output_type="latent")
    assert (array.shape, tensor.shape, latents.shape) == ((1, 8, 64, 64, 3), (1, 8, 3, 64, 64), (1, 8, 4, 8, 8))
    assert np.array_equal((array[0, 2] * 255).round().astype(np.uint8), np.asarray(images[0][2]))
    assert np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    pixels = np.concatenate(list(pipe.decode(latents, 4)))
    assert np.array_equal(pixels[2], np.asarray(images[0][2]))
    with pytest.raises(InputError, match="output_type"):
        run(pipe, inputs, output_type="gif")


def test_a_seed_fixes_the_frames_and_another_changes_them(pipe, inputs):
    first, again, other = (run(pipe, inputs, seed, output_type="np") for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


@pytest.mark.slow
def test_every_input_matters(pipe, inputs):
    expected = run(pipe, inputs, output_type="latent")
    changes = {
        "image": inputs["image"].rotate(90),
        "poses": inputs["poses"][::-1],
        "face_embedding": -inputs["face_embedding"],
    }
    for name, value in changes.items():
        found = run(pipe, {**inputs, name: value}, output_type="latent")
        assert relative_error(found, expected) > 1e-3, name
    for change in (
        {"motion_bucket_id": 60},
        {"fps": 25},
        {"noise_aug_strength": 0.5},
        {"guidance_scale": 5.0},
        {"min_guidance_scale": 1.0},
    ):
        assert relative_error(run(pipe, inputs, output_type="latent", **change), expected) > 1e-4, change


@pytest.mark.parametrize(("count", "tile", "overlap"), [(1, 4, 1), (3, 4, 3), (4, 4, 0), (8, 3, 0), (8, 2, 1)])
def test_any_length_and_any_window(pipe, inputs, count, tile, overlap):
    frames = run(pipe, {**inputs, "poses": inputs["poses"][:count]}, tile_size=tile, overlap=overlap, output_type="np")
    assert frames.shape[1] == count
    assert np.isfinite(frames).all()


def test_a_longer_video_starts_from_the_same_noise(pipe, inputs):
    """One window of noise is drawn and repeated, whatever the length."""
    conditions = pipe.encode(**inputs, height=64, width=64)
    draw = partial(initial_latents, pipe.unet, conditions, 3, torch.device("cpu"))
    noise = draw(torch.Generator().manual_seed(1))
    assert torch.equal(noise[:, :3], noise[:, 3:6])
    assert torch.equal(noise[:, 6:], noise[:, :2])
    conditions.pose_latents = conditions.pose_latents[:2]
    assert torch.equal(draw(torch.Generator().manual_seed(1)), noise[:, :2])


def test_order_of_random_numbers(pipe, inputs):
    """First the photo's noise, float32 in pixels, then one window of latents."""
    generator, expected = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    photo = pipe.video_processor.preprocess(inputs["image"], height=64, width=64)
    noise = torch.randn(1, 3, 64, 64, generator=expected)
    conditions = pipe.encode(**inputs, height=64, width=64, noise_aug_strength=0.1, generator=generator)
    with torch.no_grad():
        latents = pipe.vae.encode(photo + 0.1 * noise).latent_dist.mode()
    torch.testing.assert_close(conditions.image_latents, latents)
    drawn = initial_latents(pipe.unet, conditions, 4, torch.device("cpu"), generator)
    assert torch.equal(drawn[:, :4], torch.randn(1, 4, 4, 8, 8, generator=expected))


def test_posenet_runs_once_a_frame(pipe, inputs, monkeypatch):
    seen = []
    original = pipe.pose_net.forward
    monkeypatch.setattr(pipe.pose_net, "forward", lambda poses: seen.append(len(poses)) or original(poses))
    monkeypatch.setattr(pipeline_module, "POSE_CHUNK", 3)
    expected = run(pipe, inputs, output_type="latent")
    assert seen == [3, 3, 2]
    monkeypatch.undo()
    torch.testing.assert_close(run(pipe, inputs, output_type="latent"), expected, rtol=1e-4, atol=1e-4)


def test_callback_sees_and_replaces_the_latents(pipe, inputs):
    steps = []

    def zero(given, step, timestep, tensors):
        assert given is pipe
        steps.append((step, timestep.item()))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = run(pipe, inputs, output_type="latent", callback_on_step_end=zero)
    assert [step for step, _ in steps] == [0, 1]
    assert steps[0][1] > steps[1][1]
    assert not latents.any()


def test_given_latents_are_used(pipe, inputs):
    latents = 700 * torch.randn(1, 8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    first = run(pipe, inputs, seed=1, latents=latents, output_type="latent", noise_aug_strength=0)
    second = run(pipe, inputs, seed=2, latents=latents, output_type="latent", noise_aug_strength=0)
    assert torch.equal(first, second)


def test_decoded_chunks_are_uint8_and_the_chunk_size_matters(pipe, inputs):
    latents = run(pipe, inputs, output_type="latent")
    chunks = list(pipe.decode(latents, 3))
    assert [chunk.shape for chunk in chunks] == [(3, 64, 64, 3), (3, 64, 64, 3), (2, 64, 64, 3)]
    assert {chunk.dtype for chunk in chunks} == {np.dtype(np.uint8)}
    whole = np.concatenate(list(pipe.decode(latents, 8)))
    assert np.abs(np.concatenate(chunks).astype(int) - whole).max() > 1  # the decoder mixes the frames of a chunk
    with pytest.raises(InputError, match="decode_chunk_size 0"):
        next(pipe.decode(latents, 0))


def test_nan_in_frames_is_an_error_not_black_frames(pipe):
    latents = torch.zeros(1, 6, 4, 8, 8)
    latents[0, 5] = float("nan")
    chunks = pipe.decode(latents, 2)
    assert len([next(chunks), next(chunks)]) == 2
    with pytest.raises(NonFiniteError, match="frames 4 to 5"):
        next(chunks)


def test_tiny_vae_decodes_previews_and_stands_in_for_the_whole_vae(pipe, inputs, components):
    expected = run(pipe, inputs, output_type="latent")
    pipe.register_modules(preview_vae=tiny_vae())
    assert torch.equal(run(pipe, inputs, output_type="latent"), expected)  # the photo still goes through the VAE
    pixels = np.concatenate(list(pipe.decode(expected, 3)))
    with torch.no_grad():
        direct = pipe.preview_vae.decode(expected[0]).sample
    assert np.abs(pixels - ((direct / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()).max() <= 1
    alone = AnimationPipeline(
        **{**components, "vae": tiny_vae()}, scheduler=pipe.scheduler, feature_extractor=pipe.feature_extractor
    )
    alone.set_progress_bar_config(disable=True)
    frames = run(alone, inputs, output_type="np")
    assert frames.shape == (1, 8, 64, 64, 3)


@pytest.mark.slow
def test_bfloat16_stays_close(pipe, inputs, components):
    half = {name: copy.deepcopy(model).to(torch.bfloat16) for name, model in components.items()}
    half_pipe = AnimationPipeline(**half, scheduler=pipe.scheduler, feature_extractor=pipe.feature_extractor)
    half_pipe.set_progress_bar_config(disable=True)
    latents = 700 * torch.randn(1, 8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found, expected = (run(pipeline, inputs, output_type="np", latents=latents) for pipeline in (half_pipe, pipe))
    assert np.abs(found - expected).mean() < 0.05
    assert half_pipe.vae.dtype == torch.bfloat16  # upcast to encode, and back


@pytest.mark.slow
def test_model_offload_hooks(pipe, inputs):
    """diffusers' hooks, on the only device there is: each model comes when it is called."""
    expected = run(pipe, inputs, output_type="latent")
    hooks = []
    for name in ("image_encoder", "face_encoder", "pose_net", "unet", "vae"):
        _, hook = accelerate.cpu_offload_with_hook(getattr(pipe, name), torch.device("cpu"))
        hooks.append(hook)
    assert torch.equal(run(pipe, inputs, output_type="latent"), expected)
    run(pipe, inputs)
    for hook in hooks:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sequential_offload_hooks(pipe, inputs, components, dtype):
    """Layers whose weights are elsewhere until they run, also while the VAE is upcast to encode."""

    def build(offload):
        models = {name: copy.deepcopy(model).to(dtype) for name, model in components.items()}
        if offload:
            models["unet"].set_folding(False)
            for model in models.values():
                accelerate.cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)
        pipeline = AnimationPipeline(**models, scheduler=pipe.scheduler, feature_extractor=pipe.feature_extractor)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    found, expected = (
        run(build(offload), inputs, num_inference_steps=1, output_type="np") for offload in (True, False)
    )
    assert np.abs(found - expected).mean() < (1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.slow
def test_saves_and_loads_as_a_diffusers_pipeline(pipe, inputs, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    loaded = AnimationPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    for name in ("unet", "pose_net", "face_encoder", "vae", "image_encoder"):
        expected = getattr(pipe, name).state_dict()
        found = getattr(loaded, name).state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert np.abs(run(loaded, inputs, output_type="np") - run(pipe, inputs, output_type="np")).max() < 2 / 255


def test_bad_arguments(pipe, inputs):
    for changes, reason in (
        ({"height": 100}, "nearest valid height is 64 or 128"),
        ({"tile_size": 1}, "tile_size ≥ 2"),
        ({"overlap": 4}, "overlap < tile_size"),
        ({"num_inference_steps": 0}, "below 1"),
    ):
        with pytest.raises(InputError, match=reason):
            run(pipe, inputs, **changes)
    with pytest.raises(InputError, match="no poses"):
        run(pipe, {**inputs, "poses": []})
    with pytest.raises(InputError, match="a face embedding of 100 numbers"):
        run(pipe, {**inputs, "face_embedding": np.zeros(100)})
