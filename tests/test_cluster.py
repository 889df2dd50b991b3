"""Many jobs over Ray, on a cluster of two nodes of one core each: nothing is lost, and nothing done twice."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from animation.clip.batch import CASES_FILE
from animation.clip.flow import Models, make_clip
from animation.clip.state import STATE_FOLDER
from animation.cluster import LOCAL, Cluster, Stage, do_all
from animation.errors import InputError, RunError
from animation.evaluation.evaluation import evaluate
from animation.evaluation.settings import EvaluationSettings
from animation.files import OWNER_FILE, read_json
from animation.media.writing import write_mp4
from animation.training import preparation
from animation.training.preparation import PreparationSettings, is_complete, prepare
from tests import synthetic
from tests.clips import clip_settings, flags_of, frames_of
from tests.jobs import Recorder, Timed
from tests.test_evaluate import folders  # noqa: F401
from tests.test_prepare_data import networks, somebody, videos  # noqa: F401
from tests.waiting import wait_until

cluster_utils = pytest.importorskip("ray.cluster_utils")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")
pytestmark = [pytest.mark.slow, pytest.mark.long, needs_signals]
ROOT = Path(__file__).parents[1]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}  # the least that Ray takes


@pytest.fixture(scope="module")
def nodes():
    """Two nodes on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def do(address, path, names):
    """Results by name, and how often each job was begun."""
    jobs = [(str(path), name) for name in names]
    done = do_all(Cluster(ray=address), [Stage(Recorder)], jobs, lambda job, reason: reason)
    found = {names[number]: result for number, result in done}
    return found, Counter(line.split()[0] for line in path.read_text().splitlines())


def test_a_job_whose_worker_dies_is_given_to_another(nodes, tmp_path):
    names = ["once", "poison", "meets-a", "meets-b"] + [f"job-{i}" for i in range(20)]
    found, begun = do(nodes.address, tmp_path / "log", names)
    assert set(found) == set(names)
    assert begun == {name: {"once": 2, "poison": 3}.get(name, 1) for name in names}
    assert found.pop("poison").startswith("its worker died 3 times: ")
    processes = {process for _, process, _ in found.values()}
    assert 2 <= len(processes) <= 6  # two, and one for each that died
    assert max(before for _, _, before in found.values()) >= 5  # workers stay


def test_two_hundred_jobs_leave_the_driver_as_small_as_it_was(nodes, tmp_path):
    log, sizes = tmp_path / "log", []
    jobs = [(str(log), f"job-{i}") for i in range(200)]
    for _ in do_all(Cluster(ray=nodes.address), [Stage(Recorder)], jobs, lambda job, reason: reason):
        sizes.append(psutil.Process().memory_info().rss)
    assert len(log.read_text().splitlines()) == len(sizes) == 200
    assert max(sizes[100:]) - max(sizes[:100]) < 4 * 2**20


def test_errors_of_jobs_and_of_the_cluster(nodes, tmp_path):
    with pytest.raises(ValueError, match="this job raises"):
        do(nodes.address, tmp_path / "log", ["raises"])
    with pytest.raises(InputError, match="no Ray there"):
        do("127.0.0.1:1", tmp_path / "log", ["job"])
    assert list(do_all(Cluster(), [Stage(Recorder)], [(str(tmp_path / "alone"), "job")], None)) == [
        (0, ("job", os.getpid(), 0))
    ]


def test_clips_are_those_of_one_process(nodes, tmp_path, checkpoint, case):
    """One worker is killed within a clip, which another one goes on with; one case is bad."""
    common = clip_settings(tmp_path, checkpoint, case, num_inference_steps=8)
    cases = [{"name": name, "photo": common.photo, "video": common.video, "seed": i} for i, name in enumerate("ab")]
    cases.append({"name": "bad", "photo": "nowhere.png", "video": common.video})
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump(cases))
    flags = [*flags_of(replace(common, photo=None, video=None)), f"--cases={path}"]
    command = [sys.executable, str(ROOT / "animate.py"), *flags, f"--ray={nodes.address}"]
    running = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kept = tmp_path / "out" / "b" / STATE_FOLDER / "latents.safetensors"
    wait_until(kept.exists, 200, by=running)
    worker = json.loads((tmp_path / "out" / "b" / OWNER_FILE).read_text())["process"]
    os.kill(worker, signal.SIGKILL)
    told, errors = running.communicate(timeout=200)
    assert running.returncode == 1, errors
    assert "2 of 3 clips made, 1 failed" in told and "nowhere.png: no such photo" in told
    assert "error: 1 of 3 clips failed: bad" in errors
    assert "clips:" in errors and "2 running, 1 failed" in errors
    rows = json.loads((tmp_path / "out" / CASES_FILE).read_text())["cases"]
    assert [row["state"] for row in rows] == ["made", "made", "FAILED"]
    resumed = {name: read_json(tmp_path / "out" / name / "run.json")["resumed_from"]["step"] for name in "ab"}
    assert resumed["a"] == 0 < resumed["b"]
    alone = replace(common, seed=1, output=str(tmp_path / "alone")).resolve()
    make_clip(alone, alone.read_inputs(), Models())
    assert np.array_equal(frames_of(tmp_path / "out" / "b"), frames_of(alone.output))
    assert not np.array_equal(frames_of(tmp_path / "out" / "a"), frames_of(alone.output))  # a control
    before = (tmp_path / "out" / "a" / "run.json").stat().st_mtime_ns
    again = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert "2 of 3 clips made, 1 failed" in again.stdout
    assert (tmp_path / "out" / "a" / "run.json").stat().st_mtime_ns == before


def test_evaluation_and_data_sets_are_those_of_one_process(nodes, tmp_path, folders, networks, videos):  # noqa: F811
    flags = {name.removeprefix("--"): str(value) for name, value in folders.items()}
    measured = []
    for output, address in (("out-1", None), ("out-2", nodes.address)):
        settings = EvaluationSettings(**flags | {"output_dir": str(tmp_path / output)}, ray=address)
        cases, nowhere = settings.read_cases(), str(tmp_path / "nowhere")
        evaluate(replace(settings, face_models=nowhere, pose_models=nowhere), cases)
        measured.append(read_json(tmp_path / output / "metrics.json"))
    for part in ("cases", "mean"):
        assert measured[0][part] == measured[1][part]
    assert len(measured[0]["cases"]) == 3
    flags = {name.removeprefix("--"): str(value) for name, value in networks.items()}
    made = []
    for root, address in (("data-1", None), ("data-2", nodes.address)):
        flags |= {"videos": str(videos), "root_path": str(tmp_path / root)}
        settings = PreparationSettings(**flags, least_frames=3, ray=address)
        prepare(settings, settings.read_inputs())
        pictures = sorted((tmp_path / root).rglob("*.png"))
        made.append({str(path.relative_to(tmp_path / root)): path.read_bytes() for path in pictures})
    assert made[0] == made[1]
    assert len(made[0]) == 3 * (5 + 4) + 2  # two clips whole, and the frames of the short one


def test_stages_of_a_data_set_are_at_work_at_once(nodes, tmp_path, networks, monkeypatch):  # noqa: F811
    """Each has processes of its own; one is killed after its work, and nothing but that is done again."""
    (tmp_path / "videos").mkdir()
    for k in range(6):
        frames = (somebody(synthetic.draw_person((64, 64), 0.1 * i + k, skeleton=False)) for i in range(12))
        write_mp4(tmp_path / "videos" / f"{k}.mp4", frames, 10)
    flags = {name.removeprefix("--"): str(value) for name, value in networks.items()}
    make_stages, names, files, works = preparation.make_stages, ("frames", "people", "drawing", "masks"), [], []
    for root, address, killed in (("alone", None, None), ("shared", nodes.address, "drawing")):
        log = tmp_path / f"{root}.log"
        timed = [
            replace(stage, make=functools.partial(Timed, stage.make, name, log, killed))
            for name, stage in zip(names, make_stages(), strict=True)
        ]
        monkeypatch.setattr(preparation, "make_stages", lambda timed=timed: timed)
        places = {"videos": str(tmp_path / "videos"), "root_path": str(tmp_path / root)}
        settings = PreparationSettings(**flags, **places, least_frames=3, ray=address)
        prepare(settings, settings.read_inputs())
        assert all(is_complete(tmp_path / root / "rec" / f"{k + 1:05d}") for k in range(6))
        found = sorted((tmp_path / root).rglob("*.png"))
        files.append({str(path.relative_to(tmp_path / root)): path.read_bytes() for path in found})
        lines = map(str.split, log.read_text().splitlines())
        works.append([(*line[:3], float(line[3]), float(line[4])) for line in lines])
    assert files[0] == files[1] and len(files[0]) == 6 * 3 * 12
    assert log.with_suffix(".died").exists()
    for work in works:
        assert sorted(line[:2] for line in work) == sorted((n, f"{k + 1:05d}") for n in names for k in range(6))
    pairs = [itertools.combinations(work, 2) for work in works]
    at_once = [{frozenset((a[0], b[0])) for a, b in p if max(a[3], b[3]) < min(a[4], b[4])} for p in pairs]
    assert at_once[0] == set()  # a control
    assert {frozenset(pair) for pair in itertools.pairwise(names)} <= at_once[1]
    stage_of = {process: name for name, _, process, *_ in works[1]}
    assert all(stage_of[process] == name for name, _, process, *_ in works[1])


def test_a_node_is_removed(nodes, tmp_path):
    """A third one: what ran there is done by the others."""
    node, log = nodes.add_node(**NODE), tmp_path / "log"
    jobs = [(str(log), f"slow-{i}") for i in range(24)]
    names = []
    for _, (name, _, _) in do_all(Cluster(ray=nodes.address), [Stage(Recorder)], jobs, lambda job, reason: reason):
        names.append(name)
        if len(names) == 8:
            nodes.remove_node(node)
    assert sorted(names) == sorted(name for _, name in jobs)
    begun = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert sum(begun.values()) in (24, 25) and len(begun) == 24


def test_a_cluster_that_loses_all_its_machines_ends_the_work(tmp_path):
    """The control, with machines left, is the test before."""

    def raylets():
        return {process for process in psutil.Process().children(recursive=True) if process.name() == "raylet"}

    others, jobs, number = raylets(), [(str(tmp_path / "log"), f"slow-{i}") for i in range(100)], 0
    with pytest.raises(RunError, match="Ray has lost all its machines; the same command goes on"):
        for number, _ in do_all(Cluster(ray=LOCAL), [Stage(Recorder)], jobs, lambda job, reason: reason):  # noqa: B007
            for raylet in raylets() - others:
                raylet.kill()
    assert number < len(jobs) - 1
