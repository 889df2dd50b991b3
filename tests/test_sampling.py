"""The denoising loop against a naive one, its hooks, and what it must not do."""

import copy

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from animation.errors import NonFiniteError
from animation.sampling import Conditions, WindowedDenoiser, denoise, predicted_x0, v_from_x0
from animation.windows import window_indices
from benchmarks.naive import naive_unet, predict_video
from tests.conftest import relative_error
from tests.synthetic import SCHEDULER_CONFIG

FRAMES, SIZE = 7, 8
WINDOWS = window_indices(FRAMES, 4, 2)
CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


POSES = random(FRAMES, 3, 8 * SIZE, 8 * SIZE, seed=4).clamp(-1, 1)


@pytest.fixture
def conditions(components):
    with torch.no_grad():
        return Conditions(
            tokens=random(1, 5, 64, seed=1),
            image_latents=random(1, 4, SIZE, SIZE, seed=2),
            pose_latents=components["pose_net"](POSES),
            added_time_ids=torch.tensor([[6, 127, 0.02]]),
        )


def scheduler(steps):
    scheduler = EulerDiscreteScheduler(**SCHEDULER_CONFIG)
    scheduler.set_timesteps(steps)
    return scheduler


def run(components, conditions, guidance=2.5, steps=2, cfg_batch=1, windows=WINDOWS, **hooks):
    denoiser = WindowedDenoiser(components["unet"], conditions, windows, CPU, cfg_batch=cfg_batch)
    scale = torch.full((FRAMES,), guidance) if isinstance(guidance, float) else guidance
    with torch.no_grad():
        return denoise(denoiser, scheduler(steps), 700 * random(1, FRAMES, 4, SIZE, SIZE, seed=3), scale, **hooks)


@pytest.mark.parametrize("cfg_batch", [1, 2])
@torch.no_grad()
def test_one_step_equals_the_naive_prediction(components, conditions, cfg_batch):
    latents, timestep = random(1, FRAMES, 4, SIZE, SIZE), torch.tensor(0.4)
    denoiser = WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU, cfg_batch=cfg_batch)
    found = denoiser.accumulate(latents, timestep, True, lambda: None) / denoiser.weight_sum
    expected = predict_video(
        naive_unet(components["unet"]),
        components["pose_net"],
        latents,
        conditions.image_latents,
        timestep,
        conditions.tokens,
        conditions.added_time_ids,
        POSES,
        WINDOWS,
    )
    assert relative_error(found[0], expected[0]) < 1e-4
    assert relative_error(found[1], expected[1]) < 1e-4
    alone = denoiser.accumulate(latents, timestep, False, lambda: None) / denoiser.weight_sum
    assert relative_error(alone[0], expected[1]) < 1e-4


def test_shares_of_the_windows_add_up(components, conditions):
    """Two denoisers with a share of the windows each: their sums of predictions and of weights are the whole's."""
    shares = [WindowedDenoiser(components["unet"], conditions, WINDOWS[i::2], CPU, cfg_batch=1) for i in range(2)]
    with torch.no_grad():
        latents = random(1, FRAMES, 4, SIZE, SIZE)
        whole = WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU, cfg_batch=1)
        sums = [share.accumulate(latents, torch.tensor(0.4), True, lambda: None) for share in shares]
        torch.testing.assert_close(sum(sums), whole.accumulate(latents, torch.tensor(0.4), True, lambda: None))
    torch.testing.assert_close(sum(share.weight_sum for share in shares), whole.weight_sum)


@pytest.mark.parametrize("guidance", [1.0, 0.0, -3.0])
def test_guidance_of_one_or_less_runs_one_branch(components, conditions, monkeypatch, guidance):
    calls = []
    original = components["unet"].forward

    def count(sample, timestep, tokens, *args, **kwargs):
        calls.append(len(tokens))
        return original(sample, timestep, tokens, *args, **kwargs)

    monkeypatch.setattr(components["unet"], "forward", count)
    alone = run(components, conditions, guidance)
    assert calls == [1] * len(WINDOWS) * 2  # one conditional sample each, no unconditional
    calls.clear()
    guided = run(components, conditions, 1.0 + 1e-6)
    assert calls == [0, 1] * len(WINDOWS) * 2
    assert relative_error(alone, guided) < 1e-4
    assert relative_error(run(components, conditions, 3.0), alone) > 1e-2


def test_guidance_follows_a_line_over_the_frames(components, conditions):
    """Where windows do not mix frames, each frame gets what its own scale alone would give; here in the first step."""
    line = torch.linspace(1.5, 4.5, FRAMES)
    mixed = run(components, conditions, line, steps=1)
    for frame in (0, 3, FRAMES - 1):
        alone = run(components, conditions, line[frame].item(), steps=1)
        torch.testing.assert_close(mixed[:, frame], alone[:, frame], rtol=1e-4, atol=1e-4)


def test_unweighted_windows_differ(components, conditions, monkeypatch):
    expected = run(components, conditions)
    monkeypatch.setattr("animation.sampling.window_weights", lambda size: [1.0] * size)
    assert relative_error(run(components, conditions), expected) > 1e-3


@pytest.mark.parametrize("sigma", [700.0, 1.0, 0.002])
def test_x0_and_v_are_inverse_and_agree_with_the_scheduler(sigma):
    latents, v = random(1, 2, 4, 3, 3) * sigma, random(1, 2, 4, 3, 3, seed=1)
    x0 = predicted_x0(v, latents, sigma)
    torch.testing.assert_close(predicted_x0(v_from_x0(x0, latents, sigma), latents, sigma), x0)
    euler = EulerDiscreteScheduler(**{**SCHEDULER_CONFIG, "sigma_max": sigma, "sigma_min": sigma / 2})
    euler.set_timesteps(2)
    euler.scale_model_input(latents, euler.timesteps[0])
    torch.testing.assert_close(euler.step(v, euler.timesteps[0], latents).pred_original_sample, x0)


@pytest.mark.slow
def test_refine_x0_sees_the_prediction_and_steers_the_result(components, conditions):
    seen = []

    def keep(x0, step, num_steps):
        seen.append((step, num_steps, x0.shape))
        return x0

    untouched = run(components, conditions, refine_x0=keep)
    assert seen == [(0, 2, (1, FRAMES, 4, SIZE, SIZE)), (1, 2, (1, FRAMES, 4, SIZE, SIZE))]
    assert relative_error(untouched, run(components, conditions)) < 1e-4
    target = random(1, FRAMES, 4, SIZE, SIZE, seed=9)
    torch.testing.assert_close(run(components, conditions, refine_x0=lambda *_: target), target, rtol=1e-3, atol=1e-3)


def test_nan_is_an_error_that_names_the_step(components, conditions):
    def spoil(x0, step, num_steps):
        return x0 * (float("nan") if step == 1 else 1)

    with pytest.raises(NonFiniteError, match="after step 2 of 4"):
        run(components, conditions, steps=4, refine_x0=spoil)
    with pytest.raises(NonFiniteError, match="after step 2 of 2"):  # in the very last step
        run(components, conditions, steps=2, refine_x0=spoil)


def test_both_branches_fall_back_to_one_after_the_other(components, conditions, monkeypatch, caplog):
    expected = run(components, conditions)
    original = components["unet"].forward

    def small_memory(sample, *args, **kwargs):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(sample, *args, **kwargs)

    monkeypatch.setattr(components["unet"], "forward", small_memory)
    with pytest.raises(torch.OutOfMemoryError):
        run(components, conditions, cfg_batch=2)  # asked for: not overruled
    denoiser = WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU)
    assert denoiser.cfg_batch == 2
    with caplog.at_level("INFO", "animation"), torch.no_grad():
        latents = 700 * random(1, FRAMES, 4, SIZE, SIZE, seed=3)
        found = denoise(denoiser, scheduler(2), latents, torch.full((FRAMES,), 2.5))
    torch.testing.assert_close(found, expected)
    assert denoiser.cfg_batch == 1
    assert caplog.text.count("do not fit") == 1


def test_large_windows_on_a_cpu_run_one_branch_at_a_time(components, conditions, monkeypatch):
    assert WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU).cfg_batch == 2
    monkeypatch.setattr("animation.sampling.CPU_BATCH_PIXELS", 4 * SIZE * SIZE - 1)
    assert WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU).cfg_batch == 1
    assert WindowedDenoiser(components["unet"], conditions, WINDOWS, CPU, cfg_batch=2).cfg_batch == 2


@pytest.mark.gpu
def test_no_device_synchronisation_inside_the_loop(components, conditions):
    device = torch.device("cuda")
    on_device = Conditions(**{name: value.to(device) for name, value in vars(conditions).items()})
    unet = copy.deepcopy(components["unet"]).to(device)
    denoiser = WindowedDenoiser(unet, on_device, WINDOWS, device, cfg_batch=2)
    euler = EulerDiscreteScheduler(**SCHEDULER_CONFIG)
    euler.set_timesteps(3, device=device)
    scale = torch.full((FRAMES,), 2.5)
    latents = 700 * random(1, FRAMES, 4, SIZE, SIZE, seed=3).to(device)

    def only_inside(step, timestep, latents):
        torch.cuda.set_sync_debug_mode("error" if step == 0 else "default")
        return latents

    try:
        with torch.no_grad():
            denoise(denoiser, euler, latents, scale, on_step_end=only_inside)
    finally:
        torch.cuda.set_sync_debug_mode("default")
