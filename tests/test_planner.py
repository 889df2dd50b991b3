"""--max_vram: the plan fits, gives up quality last, and says what it does; animate.py does what it says."""

import functools
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from animation.commands import animate
from animation.errors import InputError
from animation.face.settings import FaceOptimizationSettings
from animation.planning import planner
from animation.planning.planner import GB, LEVERS, OFFLOADS, device_bytes, duration, make_plan, measure_rate, plan_run
from tests.clips import clip_settings, flags_of, write_keypoints
from tests.test_memory import TOLERANCE, measure, networks, rehearse, settings_of

SIZE = {"width": 128, "height": 128, "tile_size": 16, "num_inference_steps": 10, "cfg_batch": "2"}
NUM_FRAMES = 16
ASKED = {"offload": "none", "cfg_batch": "2", "tile_size": 16, "decode_chunk_size": 4}


@functools.cache
def rehearsal(device="cuda", num_frames=NUM_FRAMES, **options):
    return rehearse(settings_of(**SIZE | options), num_frames, device)


@pytest.fixture
def bare_card(monkeypatch):
    """A card without a driver's share, which would be more than small networks take."""
    monkeypatch.setattr(planner, "CUDA_CONTEXT", 0)


@pytest.mark.slow
def test_without_a_limit_nothing_changes():
    plan = make_plan(rehearsal(offload="model"))
    assert plan.levers == {"offload": "model", "cfg_batch": 2, "tile_size": 16, "decode_chunk_size": 4}
    assert plan.changed == {}
    assert list(plan.needs) == ["encode", "denoise", "decode"]
    assert plan.bytes > planner.CUDA_CONTEXT


def cost(plan):
    """How much is given up, the dearest first."""
    levers = plan.levers
    return (
        levers["offload"] == "sequential",
        ASKED["tile_size"] - levers["tile_size"],
        ASKED["decode_chunk_size"] - levers["decode_chunk_size"],
        2 - levers["cfg_batch"],
        OFFLOADS.index(levers["offload"]),
    )


@pytest.mark.slow
def test_every_limit_is_kept_and_less_memory_never_costs_less(bare_card):
    costs, limit = [], make_plan(rehearsal()).bytes / GB
    with pytest.raises(InputError, match="the least is") as refusal:
        while True:
            plan = make_plan(rehearsal(), limit)
            assert plan.bytes <= limit * GB
            settings = settings_of(**SIZE | plan.changed)
            stages = rehearsal().stages(settings).values()
            assert plan.bytes == max(device_bytes(rehearsal().bytes(stage, settings), "cuda") for stage in stages)
            costs.append(cost(plan))
            limit = (plan.bytes - 1) / GB
    assert costs == sorted(costs)
    assert costs[0] == (False, 0, 0, 0, 0)
    assert any(costs[-1][1:3])  # smaller windows and chunks come last
    assert len(set(costs)) == len(costs) > 4
    assert plan.bytes / GB == pytest.approx(float(re.search(r"least is ([\d.]+) GB", str(refusal.value))[1]), abs=0.01)


def test_the_order_in_which_levers_are_pulled():
    tried = [tuple(getattr(job, name) for name in LEVERS) for job in planner._candidates(rehearsal(), ())]
    assert tried[:5] == [
        ("none", "2", 16, 4),
        ("model", "2", 16, 4),
        ("none", "1", 16, 4),
        ("model", "1", 16, 4),
        ("none", "2", 16, 2),
    ]
    assert tried[12][2] == 8
    assert tried[-1] == ("sequential", "1", 8, 1)
    assert [way for way, *_ in tried] == ["none", "model"] * 12 + ["sequential"] * 12
    assert len(set(tried)) == len(tried)


@pytest.mark.slow
def test_fixed_levers_stay(bare_card):
    limit = 0.7 * make_plan(rehearsal()).bytes / GB
    free = make_plan(rehearsal(), limit)
    assert free.changed
    for lever in free.changed:
        try:
            plan = make_plan(rehearsal(), limit, [lever])
        except InputError as error:
            assert "does not fit" in str(error)
        else:
            assert lever not in plan.changed
            assert plan.bytes <= limit * GB
    with pytest.raises(InputError, match="--offload none --cfg_batch 2 --tile_size 16 --decode_chunk_size 4"):
        make_plan(rehearsal(), limit, list(ASKED))


@pytest.mark.slow
def test_the_cpu_has_nothing_to_offload_to():
    limit = 0.9 * make_plan(rehearsal("cpu")).bytes / GB
    plan = make_plan(rehearsal("cpu"), limit)
    assert plan.levers["offload"] == "none"
    assert plan.changed


@pytest.mark.slow
def test_a_plan_on_the_cpu_meets_the_measurement():
    """The plan's stages are bytes of tensors there, the networks' weights included."""
    here = rehearse(settings_of(decode_chunk_size=4))
    plan = make_plan(here, 0.8 * make_plan(here).bytes / GB)
    assert "decode_chunk_size" in plan.changed
    weights = sum(tensor.nbytes for part in here.networks.values() for tensor in (*part.parameters(), *part.buffers()))
    settings = settings_of(**plan.changed)
    for name, peak in measure(networks()[1], settings, 8, ("encode", "decode")).items():
        assert plan.needs[name].bytes - weights == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.slow
def test_the_time_grows_with_the_work():
    def seconds(rate=1e9, **options):
        return make_plan(rehearsal(**options), rate=rate).seconds

    base = seconds()
    assert seconds(num_inference_steps=20) > 1.5 * base
    assert seconds(guidance_scale=1.0) < 0.8 * base
    assert seconds(num_frames=32) > 1.7 * base
    faces = {"faces": True, "start_refine_step": 0}
    assert seconds(end_refine_step=4, **faces) > seconds(end_refine_step=0, **faces) > base
    assert seconds(end_refine_step=40, **faces) == seconds(end_refine_step=9, **faces)
    assert seconds(rate=2e9) == pytest.approx(base / 2)


FAST = {"schedule": "ays", "guidance_interval": [0.5, 50.0], "cache": 2, "windows": "shifted", "tile_size": 4}


@pytest.mark.slow
def test_the_time_counts_what_fast_modes_leave_out():
    """The arithmetic is what a run of the same settings does."""
    settings = settings_of(num_inference_steps=5, cfg_batch="1", **FAST)
    found = rehearse(settings).stages(settings)["denoise"].flops
    pipeline = networks()[1]
    photo, poses = Image.new("RGB", (64, 64)), [Image.new("RGB", (64, 64))] * 8
    conditions = pipeline.encode(photo, poses, np.zeros(512), 64, 64)
    with FlopCounterMode(display=False) as counter:
        pipeline.denoise(conditions, num_inference_steps=5, overlap=1, cfg_batch=1, **FAST)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.05)  # which has no attention on a CPU
    for left_out in ({"guidance_interval": None}, {"cache": 1}, {"schedule": "karras"}):
        other = replace(settings, **left_out)
        assert rehearse(other).stages(other)["denoise"].flops != pytest.approx(found, rel=0.06)


def test_a_cache_takes_memory():
    kept = 2 * 8 * 64 * 4 * 4 * 4  # branches, frames, channels, pixels, bytes
    plain, caching = (rehearse(settings_of(cache=cache, cfg_batch="2")) for cache in (1, 2))
    peaks = [rehearsal.stages(rehearsal.settings)["denoise"].peak for rehearsal in (plain, caching)]
    assert peaks[1] - peaks[0] == pytest.approx(kept, rel=0.3)


@pytest.mark.slow
def test_the_text_says_it_all(bare_card):
    limit = 0.6 * make_plan(rehearsal()).bytes / GB
    plan = make_plan(rehearsal(), limit, rate=1e11)
    text = plan.text()
    assert f"--decode_chunk_size {plan.levers['decode_chunk_size']}" in text
    assert "chosen to fit" in text
    for name, need in plan.needs.items():
        assert re.search(rf"{name} +{need.bytes / GB:.2f} GB, about ", text)
    assert "TFLOP/s as tried here" in text
    assert "of GPU memory" in text
    assert "of tensors" in make_plan(rehearsal("cpu"), rate=1e11).text()
    assert "chosen" not in make_plan(rehearsal(), rate=1e11).text()


def test_a_rate_is_tried(monkeypatch):
    monkeypatch.setattr(planner, "TRIAL_SECONDS", 0.01)
    assert 1e6 < measure_rate(torch.device("cpu"), torch.float32) < 1e15


def test_durations():
    words = {0.1: "1 s", 40: "40 s", 89: "89 s", 91: "2 min", 720: "12 min", 5399: "90 min", 12600: "3.5 h"}
    assert {seconds: duration(seconds) for seconds in words} == words


def run(monkeypatch, capsys, *flags):
    """Run animate.py, and return its status and what it printed and logged."""
    monkeypatch.setattr(planner, "TRIAL_SECONDS", 0.01)
    monkeypatch.setattr(sys, "argv", ["animate.py", *flags])
    status = 0
    try:
        animate.cli.run(animate.main)
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(("pixels", "batch"), [(64, 2), (384, 1)])
def test_a_dry_run_tells_what_the_run_does(tmp_path, checkpoint, case, monkeypatch, capsys, pixels, batch):
    """On a CPU the sampler takes one branch at a time where windows are large."""
    size = {"size": f"{pixels}x{pixels}", "tile_size": 2, "num_inference_steps": 1}
    write_keypoints(tmp_path / "keypoints.npz", num_frames=2)
    flags = flags_of(clip_settings(tmp_path, checkpoint, case, **size))
    status, told, _ = run(monkeypatch, capsys, *flags, "--dry_run")
    assert status == 0
    assert f"--cfg_batch {batch} " in told
    assert not (tmp_path / "out").exists()
    assert run(monkeypatch, capsys, *flags)[0] == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["cfg_batch"] == batch


@pytest.mark.slow
def test_a_limit_is_kept_to_by_the_run(tmp_path, checkpoint, case, monkeypatch, capsys):
    """Less than a run takes makes it decode fewer frames together; what still does not fit is refused."""
    settings = clip_settings(tmp_path, checkpoint, case, decode_chunk_size=None, dtype="fp32")
    flags = flags_of(settings)
    _, told, _ = run(monkeypatch, capsys, *flags, "--dry_run")
    assert "--decode_chunk_size 4" in told and "chosen" not in told
    plan = plan_run(settings.resolve().inference_settings(settings.resolve().read_inputs().framing, 10), 6)
    limit = plan.bytes * 0.9 / GB
    status, told, _ = run(monkeypatch, capsys, *flags, f"--max_vram={limit}")
    assert status == 0
    assert "chosen to fit" in told
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["settings"]["decode_chunk_size"] < 4
    assert facts["settings"]["cfg_batch"] == "auto"
    for refused in (
        (*flags, "--decode_chunk_size=4", f"--max_vram={limit}"),
        (*flags, "--max_vram=0.001"),
    ):
        status, _, logged = run(monkeypatch, capsys, *refused, "--dry_run")
        assert status == 2
        assert "does not fit; the least is" in logged


@pytest.mark.slow
def test_a_dry_run_of_cases_plans_each(tmp_path, checkpoint, case, monkeypatch, capsys):
    common = clip_settings(tmp_path, checkpoint, case)
    flags = flags_of(common)
    path = tmp_path / "cases.yaml"
    path.write_text("- {name: one}\n- {name: faces, face_optimization: true}\n- {name: tight, max_vram: 0.001}\n")
    status, told, logged = run(monkeypatch, capsys, *flags, f"--cases={path}", "--dry_run")
    assert status == 2
    assert told.count("photo  ") == 3 and told.count("plan  ") == 2 and told.count("refine  ") == 1
    assert told.index("photo  ", told.index("tight")) < told.index("plan  ")  # at once, before torch is imported
    assert "1 of 3 cases make no sense: tight" in logged
    assert not (tmp_path / "out").exists()


def test_bad_limits(tmp_path, checkpoint, case, monkeypatch, capsys):
    flags = flags_of(clip_settings(tmp_path, checkpoint, case))
    for limit in (0, -1, math.nan, math.inf):
        status, _, logged = run(monkeypatch, capsys, *flags, f"--max_vram={limit}", "--dry_run")
        assert status == 2
        assert "--max_vram" in logged


@pytest.mark.slow
def test_settings_of_a_face_optimisation_are_planned(checkpoint):
    animation = checkpoint / "Animation"
    settings = FaceOptimizationSettings(
        validation_image="",
        validation_control_folder="",
        output_dir="",
        width=64,
        height=128,
        num_inference_steps=25,
        guidance_scale=3.0,
        device="cpu",
        pretrained_model_name_or_path=str(checkpoint / "SVD"),
        unet_model_name_or_path=str(animation / "unet.pth"),
        posenet_model_name_or_path=str(animation / "pose_net.pth"),
        face_encoder_model_name_or_path=str(animation / "face_encoder.pth"),
        face_embedding_extractor_weight_path=str(animation / "glintr100_torch.pth"),
        face_models=str(checkpoint / "none"),
    )
    assert list(plan_run(settings, 6).needs) == ["encode", "denoise", "refine", "decode"]
