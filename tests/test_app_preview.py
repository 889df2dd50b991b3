"""The rough preview: colours of clean latents, from what a run keeps while it samples."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from animation.app.jobs import Job
from animation.app.preview import Previews, coloured

FRAMES, SIZE = 3, (12, 16)  # height and width of the latents
GAIN = np.random.default_rng(5).normal(size=(4, 3)) * 20


def around_a_step(sigma=3.0, next_sigma=2.0, seed=0):
    """Clean latents, and noisy ones before and after an Euler step that aims at them: (F, 4, h, w) each."""
    random = np.random.default_rng(seed)
    clean, noise = random.normal(size=(2, FRAMES, 4, *SIZE))
    return clean, clean + sigma * noise, clean + next_sigma * noise


def colours_of(clean):
    """(F, h, w, 3), 0..255: a linear function of latents."""
    return (clean.transpose(0, 2, 3, 1) @ GAIN + 128).clip(0, 255)


def test_noise_that_two_steps_share_is_taken_out():
    clean, before, after = around_a_step()
    truth = colours_of(clean)
    found = coloured(before, after, truth[0]).astype(float)
    error = np.abs(found - truth).mean()
    assert error < 4
    one_step = coloured(after, after, truth[0]).astype(float)  # the control: nothing tells noise from clean latents
    assert np.abs(one_step - truth).mean() > 5 * error


def test_the_photo_may_differ_from_the_first_frame_in_places():
    clean, before, after = around_a_step()
    truth, photo = colours_of(clean), colours_of(clean)[0]
    photo[:3, :3] = 0
    assert np.abs(coloured(before, after, photo).astype(float) - truth).mean() < 15


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_latents_that_tell_nothing_become_the_photos_mean(value):
    latents = np.full((FRAMES, 4, *SIZE), value)
    found = coloured(latents, latents, np.full((*SIZE, 3), 77.0))
    assert (found == 77).all()


def test_a_preview_comes_after_two_steps_and_goes_with_the_clip(tmp_path):
    job = Job(tmp_path, "photo.png", "driver.mp4", {})
    state, canvas = job.result / ".unfinished", job.result / "intermediate" / "photo.png"
    state.mkdir(parents=True)
    canvas.parent.mkdir()
    clean, *steps = around_a_step()
    photo = Image.fromarray(colours_of(clean)[0].astype(np.uint8))
    photo.resize((SIZE[1] * 8, SIZE[0] * 8), Image.Resampling.NEAREST).save(canvas)
    previews = Previews()
    assert previews(job) is None
    names = []
    for step, latents in enumerate((*steps, clean), 1):
        save_file({"latents": torch.from_numpy(latents)[None].float()}, state / "latents.safetensors")
        os.utime(state / "latents.safetensors", (step, step))
        names.append(previews(job))
        assert previews(job) == names[-1]
    assert names[0] is None
    assert names[1] != names[2]
    assert not names[1].exists()
    with Image.open(names[2]) as picture:
        assert (picture.n_frames, picture.size, picture.format) == (FRAMES, (320, 240), "WEBP")
    previews.forget(job)
    assert not names[2].exists()
