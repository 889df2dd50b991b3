"""A clip that is killed at any moment and started again gives the very frames of one that was not."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from animation import files, pipeline
from animation.clip.flow import Models, make_clip
from animation.clip.request import finished
from animation.clip.state import STATE_FOLDER, ClipState, differences
from animation.commands import animate
from animation.errors import InputError
from animation.files import locked
from animation.sampling import WindowedDenoiser
from tests.clips import FRAMES, clip_settings, flags_of, frames_of
from tests.face_models import write_face_models
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.fixture(scope="module")
def models():
    """One load for all tests."""
    return Models()


def make(settings, models):
    settings = settings.resolve()
    return make_clip(settings, settings.read_inputs(), models)


def end_at_state_write(monkeypatch, after):
    """End before or after the first file of the state, or of what comes before it, takes its place."""
    original = files.write_whole

    def write_whole(path, write):
        kept = STATE_FOLDER in path.parts
        if kept and not after:
            raise Killed
        original(path, write)
        if kept:
            raise Killed

    for module in ("files", "clip.state"):
        monkeypatch.setattr(f"animation.{module}.write_whole", write_whole)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, checkpoint, case, models):
    """The uninterrupted run."""
    settings = clip_settings(tmp_path_factory.mktemp("whole"), checkpoint, case)
    make(settings, models)
    assert not Path(settings.output, STATE_FOLDER).exists()
    return frames_of(settings.output)


def state_progress(output):
    """How far an unfinished run is: denoising steps (−1: none kept) and frames."""
    folder = Path(output, STATE_FOLDER)
    steps = -1
    if (folder / "latents.safetensors").exists():
        with safe_open(folder / "latents.safetensors", "pt") as file:
            steps = json.loads(file.metadata()["facts"])["step"]
    return steps, len(list(folder.glob("frames/frame_*.png")))


@pytest.mark.slow
def test_ended_at_every_single_write_it_still_gives_the_same_frames(
    tmp_path, checkpoint, case, models, expected, monkeypatch
):
    """Each start gets to write one file of the state, or just not, until one ends by itself."""
    settings = clip_settings(tmp_path, checkpoint, case)
    seen = []
    for start in range(60):
        with monkeypatch.context() as patch:
            end_at_state_write(patch, after=start % 2 == 1)
            try:
                make(settings, models)
                break
            except Killed:
                seen.append(state_progress(settings.output))
    assert [steps for steps, _ in seen[:8]] == [-1, -1, -1, 1, 1, 2, 2, 2]
    assert {frames for _, frames in seen} >= {0, 2, 4}
    assert np.array_equal(frames_of(settings.output), expected)
    assert not Path(settings.output, STATE_FOLDER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_ended_at_a_random_moment_it_gives_the_same_frames(
    tmp_path, checkpoint, case, models, expected, monkeypatch, moment
):
    """Within the network's work: at the n-th call of the UNet or the decoder."""
    settings = clip_settings(tmp_path, checkpoint, case)
    number = int(np.random.default_rng(moment).integers(1, 8))
    calls = 0

    def count(function):
        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                raise Killed
            return function(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr("animation.sampling.WindowedDenoiser._run_unet", count(WindowedDenoiser._run_unet))
        patch.setattr("animation.pipeline.decode_frames", count(pipeline.decode_frames))
        with pytest.raises(Killed):
            make(settings, models)
    facts = make(settings, models)
    assert np.array_equal(frames_of(settings.output), expected)
    assert set(facts["resumed_from"]) == {"step", "frames"}


def test_a_control_with_another_seed_gives_others(tmp_path, checkpoint, case, models, expected):
    settings = clip_settings(tmp_path, checkpoint, case, seed=5)
    make(settings, models)
    assert not np.array_equal(frames_of(settings.output), expected)


@pytest.mark.slow
def test_face_optimisation_goes_on_where_it_stopped(tmp_path, checkpoint, case, models, monkeypatch):
    faces = str(write_face_models(tmp_path / "faces", centres=((320, 130, 120),)))
    options = {"face_optimization": True, "num_optimization_iter": 1, "face_models": faces, "seed": 3}
    whole = clip_settings(tmp_path, checkpoint, case, **options, output=str(tmp_path / "whole"))
    facts = make(whole, models)
    assert [note["step"] for note in facts["face_optimization"]] == [0, 1]
    broken = clip_settings(tmp_path, checkpoint, case, **options)

    def end(*_args):
        raise Killed

    kept = 0
    keep = ClipState.keep

    def keep_one(self, *args):
        nonlocal kept
        keep(self, *args)
        kept += 1
        if kept == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ClipState, "keep", keep_one)
        with pytest.raises(Killed):
            make(broken, models)
    with monkeypatch.context() as patch:
        patch.setattr(ClipState, "keep_frames", end)
        with pytest.raises(Killed):
            make(broken, models)
    resumed = make(broken, models)
    assert resumed["resumed_from"]["step"] == 2
    assert [note["step"] for note in resumed["face_optimization"]] == [0, 1]
    assert resumed["face_optimization"] == facts["face_optimization"]
    assert np.array_equal(frames_of(broken.output), frames_of(whole.output))


def interrupt_after_first_step(settings, models, monkeypatch):
    keep = ClipState.keep

    def keep_one(self, *args):
        keep(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ClipState, "keep", keep_one)
        with pytest.raises(Killed):
            make(settings, models)


def test_a_changed_setting_starts_afresh_and_says_which(tmp_path, checkpoint, case, models, monkeypatch, caplog):
    settings = clip_settings(tmp_path, checkpoint, case)
    interrupt_after_first_step(settings, models, monkeypatch)
    caplog.set_level("INFO", "animation")
    facts = make(clip_settings(tmp_path, checkpoint, case, guidance_scale=2.0), models)
    assert facts["resumed_from"] == {"step": 0, "frames": 0}
    assert "started afresh: --guidance_scale was 3.0, is 2.0" in caplog.text


def test_changed_decoding_keeps_the_latents(tmp_path, checkpoint, case, models, monkeypatch, caplog):
    settings = clip_settings(tmp_path, checkpoint, case)
    interrupt_after_first_step(settings, models, monkeypatch)
    facts = make(clip_settings(tmp_path, checkpoint, case, decode_chunk_size=3), models)
    assert facts["resumed_from"] == {"step": 1, "frames": 0}
    assert "--decode_chunk_size was 2, is 3" in caplog.text
    whole = clip_settings(tmp_path, checkpoint, case, decode_chunk_size=3, output=str(tmp_path / "whole"))
    make(whole, models)
    assert np.array_equal(frames_of(settings.output), frames_of(whole.output))


def broken_off(path):
    path.write_bytes(path.read_bytes()[:100])


def facts_missing(path):
    save_file(load_file(path), path, {"facts": json.dumps({"step": 1})})


def random_state_of_another_kind(path):
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file(load_file(path) | {"random_state": torch.zeros(3, dtype=torch.uint8)}, path, facts)


@pytest.mark.parametrize("damage", [broken_off, facts_missing, random_state_of_another_kind])
def test_a_damaged_state_is_no_state(tmp_path, checkpoint, case, models, monkeypatch, expected, damage):
    settings = clip_settings(tmp_path, checkpoint, case)
    interrupt_after_first_step(settings, models, monkeypatch)
    damage(Path(settings.output, STATE_FOLDER, "latents.safetensors"))
    assert make(settings, models)["resumed_from"] == {"step": 0, "frames": 0}
    assert np.array_equal(frames_of(settings.output), expected)


def test_a_finished_clip_is_left_as_it_is(tmp_path, checkpoint, case, models, expected, monkeypatch):
    settings = clip_settings(tmp_path, checkpoint, case)
    make(settings, models)

    def never(*_args, **_kwargs):
        raise AssertionError("the model runs again")

    with monkeypatch.context() as patch:
        patch.setattr("animation.pipeline.AnimationPipeline.denoise", never)
        make(settings, models)
        with pytest.raises(AssertionError, match="runs again"):
            make(clip_settings(tmp_path, checkpoint, case, again=True), models)
    Path(settings.output, "animation.mp4").unlink()
    make(settings, models)
    assert np.array_equal(frames_of(settings.output), expected)


def test_a_finished_clip_is_told_without_torch(tmp_path, checkpoint, case, models):
    """The script answers before it imports torch, unless something changed."""
    settings = clip_settings(tmp_path, checkpoint, case)
    make(settings, models)
    code = "import sys; from animation.commands import animate; animate.main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *flags_of(settings)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "the clip is there already" in told and told.endswith("False\n")
    resolved = settings.resolve()
    inputs = resolved.read_inputs()
    assert finished(resolved, inputs)
    assert not finished(replace(resolved, seed=1), inputs)
    assert not finished(replace(resolved, again=True), inputs)
    os.utime(resolved.unet_model_name_or_path, ns=(0, 0))
    assert not finished(resolved, inputs)
    Path(settings.output, "animation.mp4").unlink()
    make(settings, models)
    assert finished(resolved, inputs)
    Path(settings.output, "animation.mp4").unlink()
    assert not finished(resolved, inputs)


def test_what_a_run_left_that_was_killed_after_its_last_file_is_removed(
    tmp_path, checkpoint, case, models, monkeypatch
):
    settings = clip_settings(tmp_path, checkpoint, case)
    make(settings, models)
    output = Path(settings.output)
    state = output / STATE_FOLDER / "state.json"
    monkeypatch.setattr(sys, "argv", ["animate.py", *flags_of(settings)])
    for age, stays in ((-1, False), (1, True)):
        state.parent.mkdir()
        state.write_text("{}")
        (output / ".lock").touch()
        made = (output / "run.json").stat().st_mtime
        os.utime(state, (made + age, made + age))
        animate.main()
        assert state.exists() == stays
        assert not (output / ".lock").exists()


def test_what_changed_is_named():
    found = {"--seed": 1, "the photo": "a", "--size": [1, 2]}
    assert differences(found, found) == []
    assert differences(found, {"--seed": 2, "the photo": "b", "--new": None}) == [
        "--seed was 1, is 2",
        "the photo changed",
        "--size changed",
    ]


def test_the_random_state_is_kept(tmp_path):
    state = ClipState(tmp_path, {}, {})
    generator = torch.Generator().manual_seed(1)
    torch.randn(5, generator=generator)

    class Denoiser:
        cfg_batch = 2

    state.denoising(generator, [{"step": 0}]).keep(3, torch.ones(1, 2, 4, 1, 1), Denoiser)
    expected = torch.randn(5, generator=generator)
    other, notes = torch.Generator().manual_seed(9), []
    denoiser = Denoiser()
    denoiser.cfg_batch = 1
    step, latents = state.denoising(other, notes).restore(denoiser)
    assert (step, latents.sum(), denoiser.cfg_batch, notes) == (3, 8, 2, [{"step": 0}])
    assert torch.equal(torch.randn(5, generator=other), expected)
    state.denoising(other).keep(4, torch.full((1,), torch.nan), denoiser)
    assert state.denoising(other).restore(denoiser)[0] == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX shell")
def test_killed_for_good(tmp_path, checkpoint, case, models, expected):
    """SIGKILL to the script itself, once it keeps latents and once it keeps frames."""
    settings = clip_settings(tmp_path, checkpoint, case)
    command = [sys.executable, str(ROOT / "animate.py"), *flags_of(settings)]
    state = Path(settings.output, STATE_FOLDER)
    frames = [f"frames/frame_{i}.png" for i in range(3)]  # several threads write them: the third may be the first
    for signs_of_life in (["latents.safetensors"], frames):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        wait_until(lambda signs=signs_of_life: all((state / sign).exists() for sign in signs), 300, 0.002, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    facts = make(settings, models)
    assert facts["resumed_from"]["frames"] > 0
    assert np.array_equal(frames_of(settings.output), expected)
    assert facts["num_frames"] == FRAMES


def test_two_runs_into_one_folder(tmp_path, checkpoint, case, models, monkeypatch):
    """The second one is refused, and the first one's state stays."""
    settings = clip_settings(tmp_path, checkpoint, case)
    interrupt_after_first_step(settings, models, monkeypatch)
    before = sorted(path.name for path in Path(settings.output).rglob("*"))
    with locked(Path(settings.output)), pytest.raises(InputError, match="is at work there"):
        make(settings, models)
    assert sorted(path.name for path in Path(settings.output).rglob("*")) == before
    assert make(settings, models)["resumed_from"]["step"] == 1
