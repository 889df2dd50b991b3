"""Each fast mode does nothing in its trivial case, and something in any other."""

import copy

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch._dynamo.testing import CompileCounter

from animation.errors import InputError
from animation.runtime import compile_blocks
from animation.sampling import WindowedDenoiser, denoise
from animation.schedules import ays_sigmas, guided_steps, set_timesteps, whole_steps
from animation.settings import Sampling
from animation.windows import GOLDEN_RATIO, shifted_windows, windows_of_steps
from tests.conftest import relative_error
from tests.synthetic import SCHEDULER_CONFIG
from tests.test_sampling import CPU, FRAMES, SIZE, WINDOWS, conditions, random, run, scheduler  # noqa: F401

ALL = 0.0, float("inf")


def test_the_noise_levels_are_the_published_ones():
    published = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    assert ays_sigmas(10) == pytest.approx([*published, 0.0])
    assert ays_sigmas(20)[::2] == pytest.approx([*published, 0.0])
    assert ays_sigmas(20)[1] == pytest.approx((700 * 54.5) ** 0.5)
    assert ays_sigmas(1) == pytest.approx([700, 0.0])
    euler = EulerDiscreteScheduler(**SCHEDULER_CONFIG)
    set_timesteps(euler, 10, "ays", CPU)
    torch.testing.assert_close(euler.sigmas, torch.tensor([*published, 0.0]))
    torch.testing.assert_close(euler.timesteps, 0.25 * torch.tensor(published).log())
    set_timesteps(euler, 10, "karras", CPU)
    torch.testing.assert_close(euler.sigmas, scheduler(10).sigmas)
    assert relative_error(euler.sigmas, torch.tensor(ays_sigmas(10))) > 0.1


def test_no_noise_level_is_below_the_schedulers_own():
    assert ays_sigmas(3, smallest=10.0) == pytest.approx([700, 54.5, 15.886, 0.0])
    assert ays_sigmas(6, smallest=10.0)[5] == pytest.approx((15.886 * 10) ** 0.5)
    euler = EulerDiscreteScheduler(**SCHEDULER_CONFIG | {"sigma_min": 10.0})
    for schedule in ("ays", "karras"):
        set_timesteps(euler, 12, schedule, CPU)
        assert len(euler.timesteps) == 12
        assert euler.sigmas[:-1].min() >= 10
        assert euler.sigmas[-1] == 0


def test_guidance_is_given_inside_of_the_interval():
    assert guided_steps([700.0, 10.0, 1.0, 0.1], (1.0, 10.0)) == [False, True, True, False]
    assert guided_steps([700.0, 0.1], ALL) == [True, True]


def test_the_whole_unet_runs_at_every_nth_step_and_where_guidance_changes():
    assert whole_steps([True] * 5, 1) == [True] * 5
    assert whole_steps([True] * 5, 2) == [True, False, True, False, True]
    assert whole_steps([False, True, True, True, False, False], 3) == [True, True, False, True, True, False]


def test_shifted_windows_cover_every_frame_and_move():
    for num_frames in range(1, 40):
        for tile in range(2, 14):
            seen = [shifted_windows(num_frames, tile, step) for step in range(8)]
            for windows in seen:
                assert set().union(*windows) == set(range(num_frames))
                assert {len(window) for window in windows} == {min(tile, num_frames)}
                assert all(window == sorted(set(window)) and window[0] == 0 for window in windows)
                assert len(windows) <= -(-(num_frames - 1) // (tile - 1)) + 1 if num_frames > 1 else len(windows) == 1
    assert len({str(windows) for windows in seen}) > 4
    first, second = (shifted_windows(40, 11, step) for step in range(2))
    assert first[1][1] == 11
    assert second[1][1] == 1 + int(10 * GOLDEN_RATIO)
    assert sum(map(len, windows_of_steps("shifted", 450, 16, 4, 25))) < 0.85 * 25 * 38


def fast(components, given, steps=4, guidance=2.5, interval=ALL, windows="overlapping", **options):
    first, *later = windows_of_steps(windows, FRAMES, 4, 2, steps)
    denoiser = WindowedDenoiser(components["unet"], given, first, CPU, cfg_batch=1, later=later, **options)
    latents, scale = 700 * random(1, FRAMES, 4, SIZE, SIZE, seed=3), torch.full((FRAMES,), guidance)
    with torch.no_grad():
        return denoise(denoiser, scheduler(steps), latents, scale, guidance_interval=interval)


@pytest.mark.slow
def test_what_does_nothing_gives_the_same_bytes(components, conditions):  # noqa: F811
    expected = run(components, conditions, steps=4)
    assert torch.equal(fast(components, conditions), expected)
    assert torch.equal(fast(components, conditions, cache=1), expected)


@pytest.mark.slow
def test_an_interval_that_holds_no_step_is_no_guidance(components, conditions):  # noqa: F811
    unguided = fast(components, conditions, guidance=1.0)
    assert torch.equal(fast(components, conditions, interval=(1e4, 1e5)), unguided)
    some = fast(components, conditions, interval=(0.5, 50.0))
    assert relative_error(some, unguided) > 1e-3
    assert relative_error(some, fast(components, conditions)) > 1e-3


@pytest.mark.slow
def test_shifted_windows_of_one_window_are_the_window(components, conditions):  # noqa: F811
    assert windows_of_steps("shifted", 4, 4, 2, 3) == windows_of_steps("overlapping", 4, 4, 2, 3)
    assert relative_error(fast(components, conditions, windows="shifted"), run(components, conditions, steps=4)) > 1e-3


@pytest.mark.parametrize("cfg_batch", [1, 2])
def test_cached_features_of_the_same_step_change_nothing(components, conditions, cfg_batch):  # noqa: F811
    """Where the inputs are those of the step before, so are the deep layers' outputs."""
    windows = [list(range(FRAMES))]  # of which no frame is in two
    denoiser = WindowedDenoiser(components["unet"], conditions, windows, CPU, cfg_batch=cfg_batch, cache=2)
    latents, other = (random(1, FRAMES, 4, SIZE, SIZE, seed=seed) for seed in (3, 5))
    parts = list(components["unet"].named_modules())
    with torch.no_grad():
        expected = denoiser.accumulate(latents, torch.tensor(0.4), True, lambda: None)
        denoiser.begin_step(1, whole=False)
        found = denoiser.accumulate(latents, torch.tensor(0.4), True, lambda: None)
        torch.testing.assert_close(found, expected)
        stale = denoiser.accumulate(other, torch.tensor(0.4), True, lambda: None)
        denoiser.begin_step(0)
        fresh = denoiser.accumulate(other, torch.tensor(0.4), True, lambda: None)
    assert relative_error(stale, fresh) > 1e-3
    assert [name for name, _ in components["unet"].named_modules()] == [name for name, _ in parts]


@pytest.mark.slow
def test_a_cache_runs_fewer_layers(components, conditions):  # noqa: F811
    calls = []
    with components["unet"].mid_block.register_forward_hook(lambda *_: calls.append(1)):
        cached = fast(components, conditions, cache=2)
        assert len(calls) == 2 * 2 * len(WINDOWS)
        whole = fast(components, conditions)
    assert len(calls) == 6 * 2 * len(WINDOWS)
    assert relative_error(cached, whole) > 1e-3


@pytest.mark.slow
@pytest.mark.long
def test_blocks_are_compiled_once_for_all_that_are_alike(components, conditions, monkeypatch, tmp_path):  # noqa: F811
    """With kept features too; a second run compiles nothing."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    unet, counter = copy.deepcopy(components["unet"]), CompileCounter()
    compile_blocks(unet, counter)
    blocks = [part for part in unet.modules() if type(part).__name__ in unet._repeated_blocks]
    for options in ({"cache": 2}, {"guidance": 1.0}):
        found = fast(components | {"unet": unet}, conditions, **options)
        assert relative_error(found, fast(components, conditions, **options)) < 1e-4
    compiled = counter.frame_count
    assert 0 < compiled < 2 * len(blocks)  # for one branch and for the other
    fast(components | {"unet": unet}, conditions)
    assert counter.frame_count == compiled


def test_where_nothing_can_be_compiled(components, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="--compile: no-such-compiler is not installed; install a C"):
        compile_blocks(components["unet"])


@pytest.mark.parametrize("interval", [[1.0], [2.0, 1.0], [1.0, 2.0, 3.0]])
def test_an_interval_is_two_levels(interval):
    with pytest.raises(InputError, match=r"--guidance_interval .*the lower one first"):
        Sampling(guidance_interval=interval).check()
