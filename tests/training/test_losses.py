"""The recorded training step of the original, and each piece of the loss against its closed form."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from animation.training.dataset import draw_random_numbers
from animation.training.losses import conditioning_dropout, cosine_interpolated_sigma, denoising_loss
from animation.training.plan import SamplePlan
from animation.training.step import (
    NOISE_AUG_STRENGTH,
    Batch,
    FrozenEncoders,
    TrainableParts,
    sample_posterior,
    training_step,
)
from animation.weights.loading import load_components
from tests.conftest import checkpoint_paths, relative_error

TOLERANCE = 1e-3


def test_noise_levels():
    u = torch.tensor([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], dtype=torch.float64)
    expected = torch.tensor([700, 12.085, 2.0283, 0.70847, 0.24797, 0.04265, 0.002], dtype=torch.float64)
    assert ((cosine_interpolated_sigma(u) / expected - 1).abs() < 1e-4).all()
    assert (cosine_interpolated_sigma(torch.linspace(0, 1, 1001, dtype=torch.float64)).diff() < 0).all()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_noise_levels_are_stratified(batch_size):
    """Each step's u fall into each of the equal parts of 0…1 once, and over many steps they are uniform."""
    grid = cosine_interpolated_sigma(torch.linspace(0, 1, 100_001, dtype=torch.float64)).flip(0).numpy()
    plan, positions = SamplePlan([5], batch_size, seed=3), []
    for step in range(60):
        sigmas = [
            draw_random_numbers(3, key, batch_size, 1, (1, 1, 1), (3, 1, 1))["sigma"] for key in plan.samples(step)
        ]
        u = 1 - np.searchsorted(grid, torch.stack(sigmas).double().numpy()) / 100_000
        assert sorted(np.clip((u * batch_size).astype(int), 0, batch_size - 1)) == list(range(batch_size))
        positions.extend(u)
    assert abs(np.mean(positions) - 0.5) < 0.15 / np.sqrt(batch_size)


def test_conditioning_dropout():
    p = 0.1
    r = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.95])
    token, latents = conditioning_dropout(torch.ones(8, 1, 2), torch.ones(8, 4, 1, 1), r, p)
    assert token[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert latents[:, 0, 0, 0].tolist() == [1, 0, 0, 0, 0, 1, 1, 1]
    nothing = conditioning_dropout(torch.ones(1, 1, 2), torch.ones(1, 4, 1, 1), torch.zeros(1), 0)
    assert all(tensor.all() for tensor in nothing)


def test_loss_closed_form():
    x0, mask = torch.zeros(2, 1, 4, 2, 2), torch.zeros(2, 1, 1, 2, 2)
    mask[1, :, :, 0, 0] = 1
    losses = denoising_loss(x0 + 2, x0, torch.tensor([1.0, 0.5]), mask)
    # 2·4, and (1.25/0.25)·4 with a quarter of the pixels counted twice
    assert torch.allclose(losses, torch.tensor([8.0, 25.0]))
    # and counted eight times, or like the others
    weighted = [denoising_loss(x0 + 2, x0, torch.tensor([1.0, 0.5]), mask, weight)[1] for weight in (7, 0)]
    assert weighted == [5 * 4 * 11 / 4, 5 * 4]


def test_temporal_loss_closed_form():
    x0, mask, sigma = torch.zeros(1, 3, 4, 2, 2), torch.zeros(1, 3, 1, 2, 2), torch.ones(1)
    mask[:, 1, :, 0, 0] = 1
    error = torch.tensor([0.0, 2, 6])[None, :, None, None, None]
    frames, changes = 2 * (0 + 4 * 12 / 4 + 36) / 3, 2**0.5 * (2 + 4) / 2  # a quarter of frame 1 counts nine times
    losses = [denoising_loss(x0 + error, x0, sigma, mask, 8, weight).item() for weight in (0, 1, 3)]
    assert losses == pytest.approx([frames, frames + changes, frames + 3 * changes])
    still = [denoising_loss(x0 + 2, x0, sigma, mask, 8, weight) for weight in (0, 3)]
    assert torch.equal(*still)  # an error that does not change counts once


def test_posterior_samples():
    moments = torch.cat([torch.full((1, 4, 50, 50), 3.0), torch.full((1, 4, 50, 50), np.log(0.25))], dim=1)
    drawn = sample_posterior(moments, torch.randn(1, 4, 50, 50, generator=torch.Generator().manual_seed(0)))
    assert abs(drawn.mean() - 3) < 0.02
    assert abs(drawn.std() - 0.5) < 0.02
    exact = torch.cat([torch.ones(1, 4, 1, 1), torch.full((1, 4, 1, 1), -torch.inf)], dim=1)
    assert torch.allclose(sample_posterior(exact, torch.ones(1, 4, 1, 1)), torch.ones(1), atol=1e-6)


@pytest.fixture(scope="module")
def recorded(reference):
    """The recorded step's tensors, and a function that runs it with changes to its batch."""
    step = load_file(reference / "expected" / "training_step.safetensors")
    components = load_components(**checkpoint_paths(reference / "checkpoints"))
    parts = TrainableParts(*(components[name] for name in ("pose_net", "face_encoder", "unet"))).requires_grad_(True)
    encoders = FrozenEncoders(*(components[name] for name in ("vae", "image_encoder", "feature_extractor")))

    def run(face_weight=1.0, **changes):
        batch = Batch(
            reference=step["reference_image"],
            poses=step["pose_pixels"],
            face_masks=step["face_masks"],
            face_embedding=step["face_embedding"],
            sigma=step["sigma"],
            dropout=torch.ones(1),
            noise=step["latent_noise"],
            reference_noise=step["reference_noise"] / NOISE_AUG_STRENGTH,
            posterior_noise=torch.zeros_like(step["latent_noise"]),
            reference_posterior_noise=torch.zeros_like(step["latent_noise"][:, 0]),
            pixels=step["pixel_values"],
        )
        for name, value in changes.items():
            setattr(batch, name, value)
        parts.zero_grad()
        result = training_step(parts, encoders, batch, face_weight=face_weight)
        result.losses.mean().backward()
        return result

    return step, parts, run


def gradient_error(parts, step):
    """The largest relative difference of a recorded gradient norm."""
    prefix = "grad_norm."
    expected = {name.removeprefix(prefix): norm.item() for name, norm in step.items() if name.startswith(prefix)}
    assert len(expected) > 10
    return max(abs(parts.get_parameter(name).grad.norm().item() / norm - 1) for name, norm in expected.items())


def test_the_recorded_step(recorded):
    step, parts, run = recorded
    result = run()
    assert relative_error(result.latents, step["expected_latents"]) <= TOLERANCE
    assert relative_error(result.prediction, step["expected_model_output"]) <= TOLERANCE
    assert abs(result.losses.mean() / step["expected_loss"] - 1) <= TOLERANCE
    assert gradient_error(parts, step) <= TOLERANCE


def test_the_recorded_step_with_gradient_checkpointing(recorded):
    step, parts, run = recorded
    parts.unet.enable_gradient_checkpointing()
    try:
        assert abs(run().losses.mean() / step["expected_loss"] - 1) <= TOLERANCE
        assert gradient_error(parts, step) <= TOLERANCE
    finally:
        parts.unet.disable_gradient_checkpointing()


@pytest.mark.parametrize("change", ["mask", "face weight", "photo noise", "dropout", "pose"])
def test_controls_of_the_recorded_step(recorded, change):
    step, parts, run = recorded
    changes = {
        "mask": {"face_masks": torch.zeros_like(step["face_masks"])},
        "face weight": {"face_weight": 2.0},
        "photo noise": {"reference_noise": torch.zeros_like(step["reference_noise"])},
        "dropout": {"dropout": torch.full((1,), 0.15)},
        "pose": {"poses": -step["pose_pixels"]},
    }
    result = run(**changes[change])
    loss_error = abs(result.losses.mean() / step["expected_loss"] - 1).item()
    assert max(loss_error, gradient_error(parts, step)) > 3 * TOLERANCE
