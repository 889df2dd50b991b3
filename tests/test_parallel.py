"""One video on several processes over gloo gives the latents and frames of one, and what goes wrong is one line."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from transformers import CLIPImageProcessorPil

from animation import pipeline as pipelines
from animation.clip.flow import Models, make_clip
from animation.clip.plan import describe
from animation.clip.state import STATE_FOLDER, ClipState
from animation.errors import InputError
from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer
from animation.media.images import FrameFolder, load_photo
from animation.parallel import ALONE, Processes, rounds
from animation.pipeline import AnimationPipeline
from animation.settings import Sampling
from animation.windows import window_indices
from tests.clips import clip_settings, flags_of, frames_of
from tests.conftest import relative_error
from tests.processes import posix, together
from tests.synthetic import tiny_arcface
from tests.test_app_limits import write_video
from tests.test_sampling import scheduler
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
FRAMES, TILE, OVERLAP, STEPS = 8, 4, 2, 2


def share(folder, count, make):
    """What each of so many processes makes that share a video."""

    def connected(rank):
        processes = Processes.of_environment()
        assert (processes.rank, processes.count) == (rank, count)
        processes.connect(torch.device("cpu"))
        return make(processes)

    return together(folder, count, connected)


@pytest.fixture
def animate(components, case, monkeypatch):
    """A function that animates eight frames by three windows with some processes."""
    monkeypatch.setattr(pipelines, "POSE_CHUNK", 2)
    parts = {
        **components,
        "scheduler": scheduler(STEPS),
        "feature_extractor": CLIPImageProcessorPil(size={"shortest_edge": 224}),
    }
    pipe = AnimationPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    photo, poses = load_photo(case / "reference.png"), FrameFolder(case / "poses")
    embedding = np.load(case / "face_embedding.npy")
    arcface = tiny_arcface()

    def run(processes, guidance=2.0, faces=False, seed=0, cfg_batch=1, **modes):
        pipe.processes = processes
        generator = torch.Generator().manual_seed(seed)
        conditions = pipe.encode(photo, poses, embedding, 64, 64, generator=generator)
        before = processes.traffic
        refine = None
        if faces:
            boxes = [FaceBox(8, 40, 8, 40) if i != 3 else None for i in range(FRAMES)]
            reference = torch.randn(1, arcface.config.embedding_dim, generator=torch.Generator().manual_seed(5))
            refine = FaceOptimizer(
                pipe.vae,
                arcface,
                reference,
                boxes,
                num_iterations=1,
                decode_chunk_size=2,
                progress=False,
                processes=processes,
            )
        latents = pipe.denoise(
            conditions,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            tile_size=TILE,
            overlap=OVERLAP,
            cfg_batch=cfg_batch,
            generator=generator,
            refine_x0=refine,
            **modes,
        )
        return {
            "poses": conditions.pose_latents,
            "latents": latents,
            "frames": list(pipe.decode(latents, 3)),
            "similarities": refine and refine.similarities,
            "bytes": processes.traffic - before,
        }

    return run


@posix
def test_what_a_test_left_half_read_hangs_no_process(tmp_path, monkeypatch):
    """Where a process frees a decoder that its parent left, it waits for threads that a fork does not take along."""
    monkeypatch.setattr("tests.processes.PATIENCE", 20)
    write_video(tmp_path / "video.mp4")
    container = av.open(tmp_path / "video.mp4")
    container.streams.video[0].thread_type, container.streams.video[0].thread_count = "FRAME", 2
    next(container.decode(video=0))
    left = [container]
    left.append(left)  # so that it waits for a collection
    gc.disable()
    try:
        del container, left
        together(tmp_path, 1, lambda _: gc.collect())
    finally:
        gc.enable()


@posix
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_latents_and_frames_are_those_of_one_process(animate, tmp_path, count):
    expected = animate(ALONE)
    assert len(window_indices(FRAMES, TILE, OVERLAP)) == 3  # four processes divide the branches too
    found = share(tmp_path, count, animate)
    for each in found:
        assert torch.equal(each["poses"], expected["poses"])
        assert torch.equal(each["latents"], found[0]["latents"])
    assert relative_error(found[0]["latents"], expected["latents"]) < 1e-5
    assert relative_error(found[0]["latents"], animate(ALONE, cfg_batch=2)["latents"]) < 1e-4  # other batches
    assert [len(chunk) for chunk in found[0]["frames"]] == [3, 3, 2]
    difference = np.concatenate(found[0]["frames"]).astype(int) - np.concatenate(expected["frames"])
    assert np.abs(difference).max() <= 1
    assert all(each["frames"] == [] for each in found[1:])
    other = animate(ALONE, seed=1)  # a control
    assert relative_error(other["latents"], expected["latents"]) > 1e-2
    latents = expected["latents"].nbytes
    assert found[0]["bytes"] == (0 if count == 1 else (1 + STEPS) * latents)  # the noise, then a sum a step


@posix
@pytest.mark.slow
@pytest.mark.long
def test_shifted_windows_and_guidance_of_some_steps_are_shared_too(animate, tmp_path):
    modes = {"windows": "shifted", "guidance_interval": (0, 10)}
    found = share(tmp_path, 2, lambda processes: animate(processes, **modes)["latents"])
    assert relative_error(found[0], animate(ALONE, **modes)["latents"]) < 1e-5
    assert relative_error(found[0], animate(ALONE)["latents"]) > 1e-2  # a control


def test_deep_features_are_not_shared(monkeypatch):
    Sampling(cache=2).check()
    monkeypatch.setenv("WORLD_SIZE", "2")
    Sampling(cache=1).check()
    with pytest.raises(InputError, match="--cache 2: not with 2 processes for one clip; leave it out"):
        Sampling(cache=2).check()


@posix
@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_leaves_its_share_out_is_noticed(animate, tmp_path):
    def lazy(processes):
        if processes.rank == 1:
            processes.own = lambda items: items[:0]
        return animate(processes)

    found = share(tmp_path, 2, lazy)
    assert relative_error(found[0]["latents"], animate(ALONE)["latents"]) > 1e-2


@posix
@pytest.mark.slow
@pytest.mark.long
def test_face_optimisation_and_a_single_branch(animate, tmp_path):
    def both(processes):
        return animate(processes, guidance=1.0), animate(processes, faces=True)

    expected, found = both(ALONE), share(tmp_path, 3, both)
    for wanted, each in zip(expected, found[0], strict=True):
        assert relative_error(each["latents"], wanted["latents"]) < 1e-5
    assert found[1][1]["similarities"] == found[0][1]["similarities"]
    for name in ("cosine_before", "cosine_after"):
        pairs = zip(found[0][1]["similarities"], expected[1]["similarities"], strict=True)
        assert all(abs(a[name] - b[name]) < 1e-4 for a, b in pairs)
    assert relative_error(expected[1]["latents"], animate(ALONE)["latents"]) > 1e-3  # faces do matter


def test_shares_are_even_and_whole():
    for length in range(20):
        for count in range(1, 6):
            shares = [Processes(rank, count).own(range(length)) for rank in range(count)]
            assert [i for share in shares for i in share] == list(range(length))
            assert max(map(len, shares)) == (rounds(length, count)[0] if length else 0)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            assert ALONE.owners(length) == [0] * length
            owners = Processes(0, count).owners(length)
            assert [owners.count(rank) for rank in range(count)] == [len(share) for share in shares]
    assert rounds(38, 8) == (5, 0.95)


FAILS = """
import torch
from animation import cli
from animation.errors import RunError
from animation.parallel import Processes

def main():
    processes = Processes.of_environment()
    processes.connect(torch.device("cpu"))
    print(processes.sum(torch.ones(1)).item())
    if processes.rank == 1:
        raise RunError("what went wrong here")
    processes.sum(torch.ones(1))

cli.run(main)
"""


def launch(processes, script, *flags):
    command = [sys.executable, "-m", "animation.launch", "--multi_gpu", f"--num_processes={processes}", script, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


@posix
@pytest.mark.slow
@pytest.mark.long
def test_the_one_that_fails_is_told_of(tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # it is taken already
            other.bind(("127.0.0.1", 29500))
            other.listen()  # as another launcher with the port that accelerate takes by itself
        running = launch(2, tmp_path / "fails.py")
        told, errors = running.communicate(timeout=100)
    assert (running.returncode, told.count("2.0"), errors) == (1, 2, "error: what went wrong here\n")


@posix
@pytest.mark.slow
@pytest.mark.long
def test_one_process_dies_and_another_number_of_them_goes_on(tmp_path, checkpoint, case):
    settings = clip_settings(tmp_path, checkpoint, case, num_inference_steps=20)
    running = launch(2, "animate.py", *flags_of(settings))
    kept = Path(settings.output, STATE_FOLDER, "latents.safetensors")
    wait_until(kept.exists, 200, by=running)
    second = [child for child in psutil.Process(running.pid).children() if child.environ().get("RANK") == "1"]
    second[0].send_signal(signal.SIGKILL)
    told, errors = running.communicate(timeout=100)
    assert running.returncode == 128 + signal.SIGKILL
    assert [line for line in errors.splitlines() if "error" in line.lower()] == [
        "error: process 1 ended by signal 9 (SIGKILL), and with it the others"
    ]
    assert told.count("sharing   2 processes, rounds: 1 a step (100% at work), 2 of decoding (75% at work)") == 1
    alone, whole = settings.resolve(), replace(settings, output=str(tmp_path / "whole")).resolve()
    facts = make_clip(alone, alone.read_inputs(), Models())
    assert 0 < facts["resumed_from"]["step"] < 20
    make_clip(whole, whole.read_inputs(), Models())
    assert np.abs(frames_of(alone.output).astype(int) - frames_of(whole.output)).max() <= 1
    assert facts["processes"] == {"count": 1, "bytes": 0}


@posix
@pytest.mark.slow
@pytest.mark.long
def test_one_goes_on_as_two(tmp_path, checkpoint, case, monkeypatch):
    """What one process left unfinished two finish, and the first one of them writes."""
    settings = clip_settings(tmp_path, checkpoint, case, num_inference_steps=3).resolve()
    inputs = settings.read_inputs()
    whole = replace(settings, output=str(tmp_path / "whole"))
    make_clip(whole, whole.read_inputs(), Models())
    keep = ClipState.keep

    def keep_one(self, *arguments):
        keep(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClipState, "keep", keep_one)
        make_clip(settings, inputs, Models())
    facts = share(tmp_path, 2, lambda processes: make_clip(settings, inputs, Models(processes)))
    assert facts[1] == {}
    assert facts[0]["resumed_from"] == {"step": 1, "frames": 0}
    assert facts[0]["processes"]["count"] == 2 and facts[0]["processes"]["bytes"] > 0
    assert np.abs(frames_of(settings.output).astype(int) - frames_of(whole.output)).max() <= 1
    again = share(tmp_path, 2, lambda processes: make_clip(settings, inputs, Models(processes)))
    assert again[0]["key"] == facts[0]["key"]  # it is there already
    assert "rounds: 1 a step (67% at work), 1 of decoding (100% at work)" in describe(settings, inputs, 3)
    assert "processes" not in describe(settings, inputs)
