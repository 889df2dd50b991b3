"""--max_vram: the plan fits, gives up quality last, and says what it does."""

import copy
import functools
import math
import re

import pytest
import torch

from animation.errors import InputError
from animation.face.settings import FaceOptimizationSettings
from animation.planning import planner
from animation.planning.memory import META, Job, Rehearsal, peak_bytes
from animation.planning.planner import (
    GB,
    OFFLOADS,
    device_bytes,
    duration,
    job_of,
    load_rehearsal,
    make_plan,
    measure_rate,
)
from tests import synthetic
from tests.conftest import checkpoint_paths
from tests.test_memory import BASE, TOLERANCE, make_components, measure, networks, on_meta

JOB = Job(**BASE | {"width": 128, "height": 128, "tile_size": 16, "num_frames": 16, "num_inference_steps": 10})


@functools.cache
def rehearsal(kernels="cuda"):
    return Rehearsal(on_meta(make_components()), kernels, copy.deepcopy(synthetic.tiny_arcface()).to(META))


@pytest.fixture
def bare_card(monkeypatch):
    """A card without a driver's share, which would be more than small networks take."""
    monkeypatch.setattr(planner, "CUDA_CONTEXT", 0)


def test_without_a_limit_nothing_changes():
    plan = make_plan(rehearsal(), JOB, "model")
    assert plan.levers() == {"offload": "model", "cfg_batch": 2, "tile_size": 16, "decode_chunk_size": 4}
    assert (plan.job, plan.changed, plan.seconds) == (JOB, {}, None)
    assert list(plan.stages) == ["encode", "denoise", "decode"]
    assert plan.bytes > planner.CUDA_CONTEXT


def cost(plan, asked=JOB):
    """How much is given up, the dearest first."""
    return (
        plan.offload == "sequential",
        asked.tile_size - plan.job.tile_size,
        asked.decode_chunk_size - plan.job.decode_chunk_size,
        2 - plan.job.cfg_batch,
        OFFLOADS.index(plan.offload),
    )


def test_every_limit_is_kept_and_less_memory_never_costs_less(bare_card):
    everything = make_plan(rehearsal(), JOB).bytes
    costs, limit = [], everything / GB
    with pytest.raises(InputError, match="the least is") as refusal:
        while True:
            plan = make_plan(rehearsal(), JOB, max_vram=limit)
            assert plan.bytes <= limit * GB
            needs = rehearsal().run(plan.job, plan.offload).values()
            assert plan.bytes == max(
                device_bytes(peak_bytes(need, rehearsal(), plan.offload), "cuda") for need in needs
            )
            costs.append(cost(plan))
            limit = (plan.bytes - 1) / GB
    assert costs == sorted(costs)
    assert costs[0] == (False, 0, 0, 0, 0)
    assert costs[-1][1] > 0  # smaller windows come last
    assert len(set(costs)) == len(costs) > 4
    assert plan.bytes / GB == pytest.approx(float(re.search(r"least is ([\d.]+) GB", str(refusal.value))[1]), abs=0.01)


def test_the_order_in_which_levers_are_pulled():
    tried = [
        (way, job.cfg_batch, job.tile_size, job.decode_chunk_size)
        for job, way in planner._candidates(rehearsal(), JOB, "none", ())
    ]
    assert tried[:5] == [
        ("none", 2, 16, 4),
        ("model", 2, 16, 4),
        ("none", 1, 16, 4),
        ("model", 1, 16, 4),
        ("none", 2, 16, 2),
    ]
    assert tried[12][2] == 8
    assert tried[-1] == ("sequential", 1, 8, 1)
    assert [way for way, *_ in tried] == ["none", "model"] * 12 + ["sequential"] * 12
    assert len(set(tried)) == len(tried)


def test_fixed_levers_stay(bare_card):
    limit = 0.7 * make_plan(rehearsal(), JOB).bytes / GB
    asked = {"offload": "none", "cfg_batch": 2, "tile_size": 16, "decode_chunk_size": 4}
    free = make_plan(rehearsal(), JOB, max_vram=limit)
    assert free.changed
    for lever in free.changed:
        try:
            plan = make_plan(rehearsal(), JOB, max_vram=limit, fixed=[lever])
        except InputError as error:
            assert "does not fit" in str(error)
        else:
            assert plan.levers()[lever] == asked[lever]
            assert plan.bytes <= limit * GB
    with pytest.raises(InputError, match="--offload none --cfg_batch 2 --tile_size 16 --decode_chunk_size 4"):
        make_plan(rehearsal(), JOB, max_vram=limit, fixed=list(asked))


def test_the_cpu_has_nothing_to_offload_to():
    everything = make_plan(rehearsal("cpu"), JOB)
    plan = make_plan(rehearsal("cpu"), JOB, max_vram=0.9 * everything.bytes / GB)
    assert plan.offload == "none"
    assert plan.changed


def test_a_plan_on_the_cpu_meets_the_measurement():
    """The plan's stages are bytes of tensors there, the networks' weights included."""
    pipeline, arcface, here = networks(torch.float32, False)
    job = Job(**BASE | {"decode_chunk_size": 4})
    limit = 0.8 * make_plan(here, job).bytes / GB
    plan = make_plan(here, job, max_vram=limit)
    assert "decode_chunk_size" in plan.changed
    weights = sum(here.weights.values())
    for name, peak in measure(pipeline, arcface, plan.job, ("encode", "decode")).items():
        assert plan.stages[name].bytes - weights == pytest.approx(peak, rel=TOLERANCE)


def test_the_time_grows_with_the_work():
    def seconds(**options):
        return make_plan(rehearsal(), Job(**vars(JOB) | options), rate=1e9).seconds

    base = seconds()
    assert seconds(num_inference_steps=20) > 1.5 * base
    assert seconds(guided=False) < 0.8 * base
    assert seconds(num_frames=32) > 1.7 * base
    assert seconds(refined_steps=5) > seconds(refined_steps=1) > base
    assert make_plan(rehearsal(), JOB, rate=2e9).seconds == pytest.approx(base / 2)


def test_the_text_says_it_all(bare_card):
    limit = 0.6 * make_plan(rehearsal(), JOB).bytes / GB
    plan = make_plan(rehearsal(), JOB, max_vram=limit, rate=1e11)
    text = plan.text()
    assert "plan: 16 frames of 128×128 (width × height) in" in text
    assert f"--decode_chunk_size {plan.job.decode_chunk_size}" in text
    assert "chosen to fit" in text
    for name, stage in plan.stages.items():
        assert re.search(rf"{name} +{stage.bytes / GB:.2f} GB  about ", text)
    assert "TFLOP/s as tried here" in text
    assert "chosen" not in make_plan(rehearsal(), JOB).text()
    assert "about" not in make_plan(rehearsal(), JOB).text()


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_bad_limits(limit):
    with pytest.raises(InputError, match="give GB above 0"):
        make_plan(rehearsal(), JOB, max_vram=limit)


def test_a_rate_is_tried(monkeypatch):
    monkeypatch.setattr(planner, "TRIAL_SECONDS", 0.01)
    assert 1e6 < measure_rate(torch.device("cpu"), torch.float32) < 1e15


def test_durations():
    assert [duration(s) for s in (0.1, 40, 89, 91, 720, 5399, 12600)] == [
        "1 s",
        "40 s",
        "89 s",
        "2 min",
        "12 min",
        "90 min",
        "3.5 h",
    ]


def test_settings_become_a_job_and_a_rehearsal(checkpoint):
    cpu, names = torch.device("cpu"), ("svd_folder", "unet_path", "pose_net_path", "face_encoder_path")
    flags = (
        "pretrained_model_name_or_path",
        "unet_model_name_or_path",
        "posenet_model_name_or_path",
        "face_encoder_model_name_or_path",
    )
    paths = checkpoint_paths(checkpoint)
    settings = FaceOptimizationSettings(
        validation_image="",
        validation_control_folder="",
        output_dir="",
        start_refine_step=5,
        end_refine_step=40,
        hjb_crop=2,
        **{flag: str(paths[name]) for flag, name in zip(flags, names, strict=True)},
    )
    job = job_of(settings, 64, 128, 30, cpu, face_optimization=True)
    assert (job.refined_steps, job.hjb_crop, job.cfg_batch, job.guided) == (20, 2, 2, True)
    assert job_of(settings, 64, 128, 30, cpu).refined_steps == 0
    assert job_of(settings, 512, 512, 30, cpu).cfg_batch == 1
    assert job_of(settings, 512, 512, 30, torch.device("cuda")).cfg_batch == 2
    arcface = checkpoint / "Animation" / "glintr100_torch.pth"
    plan = make_plan(load_rehearsal(settings, cpu, arcface), job)
    assert list(plan.stages) == ["encode", "denoise", "refine", "decode"]
