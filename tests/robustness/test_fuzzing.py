"""A bounded part of the fuzzing, what once failed, and that the harness finds what it is for."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from animation.clip.cases import check_cases, read_cases
from animation.clip.settings import ClipSettings
from animation.errors import CheckpointError, InputError
from animation.weights.loading import load_scheduler
from DWPose.recording import load_recording
from tests.clips import write_keypoints
from tests.robustness.fuzzing import ALL, fuzz, make_input, problem
from tests.robustness.readers import READERS

CORPUS = Path(__file__).parent / "corpus"  # folders by the readers' names
INPUTS = 60  # of a reader
FEW = {"mp4": 20, "mov": 20, "webm": 20}

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits of memory as on Linux")


def problems(folder, reader, count, seeds):
    """What is wrong with a reader by the number of the input, in this process."""
    found = {}
    for number in range(count):
        path = folder / ALL[reader].file
        path.write_bytes(make_input(reader, number, seeds))
        found[number] = problem(reader, path)
    return {number: told for number, told in found.items() if told}


@pytest.mark.parametrize("reader", READERS)
def test_whole_files_are_read(tmp_path, reader):
    for content in READERS[reader].seeds():
        path = tmp_path / READERS[reader].file
        path.write_bytes(content)
        if not any(word in reader for word in ("config", "onnx")):  # these end where the network goes on
            READERS[reader].read(path)
        assert problem(reader, path) is None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_told_in_one_line(tmp_path, reader):
    seeds = list(READERS[reader].seeds())
    assert problems(tmp_path, reader, FEW.get(reader, INPUTS), seeds) == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name} {path.name}")
def test_what_once_failed(tmp_path, path):
    reader = path.parent.name
    (tmp_path / READERS[reader].file).write_bytes(path.read_bytes())
    assert problem(reader, tmp_path / READERS[reader].file) is None


def test_inputs_are_the_same_each_time_and_differ():
    seeds = list(READERS["png"].seeds())
    inputs = [make_input("png", number, seeds) for number in range(100)]
    assert inputs == [make_input("png", number, seeds) for number in range(100)]
    assert len(set(inputs)) > 90 and inputs[0] == seeds[0]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("control", "told"),
    [
        ("that hangs", "the process ended with status -14"),
        ("that fills memory", "MemoryError"),
        ("that ends the process", "the process ended with status -6"),
    ],
)
def test_the_harness_finds_a_reader(monkeypatch, control, told):
    monkeypatch.setenv("FUZZING_SECONDS", "2")
    found = fuzz(control, 0, 1)
    assert list(found) == [0] and told in found[0]


def test_the_harness_finds_naive_readers(tmp_path):
    seeds = list(READERS["compressed npz"].seeds())
    assert len(problems(tmp_path, "that is numpy's own", 60, seeds)) > 10
    assert problems(tmp_path, "that leaves files", 1, seeds) == {0: "left behind: ['half-written']"}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
NAMES = st.sampled_from([*vars(ClipSettings(output="x")), "name", "phot"]) | st.text(max_size=10)
PLAIN = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PLAIN
@given(cases=st.lists(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES, min_size=1, max_size=3))
def test_cases_of_any_values_are_made_or_told(tmp_path, cases):
    path = tmp_path / "cases.yaml"
    path.write_text(json.dumps(cases))
    common = ClipSettings(photo="inference/case-1/reference.png", video="nowhere", output=str(tmp_path / "out"))
    try:
        checked = check_cases(common, read_cases(path))
    except InputError:
        return
    assert len(checked) == len(cases)
    assert all(case.error and "\n" not in case.error for case in checked)


KINDS = arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.floating_dtypes() | arrays.unicode_string_dtypes()
ARRAYS = arrays.arrays(KINDS, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@PLAIN
@given(data=st.data())
def test_key_points_of_any_arrays_are_read_or_told(tmp_path, data):
    path = write_keypoints(tmp_path / "keypoints.npz")
    content = dict(np.load(path))
    for name in data.draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=2, unique=True)):
        shape = st.just(content[name].shape)
        content[name] = data.draw(ARRAYS | arrays.arrays(KINDS, shape) | st.just(np.atleast_1d(content[name])[:1]))
    np.savez(path, **content)
    try:
        assert isinstance(load_recording(path).video, list)
    except InputError as error:
        assert "keypoints.npz" in str(error)


@PLAIN
@given(config=st.dictionaries(st.sampled_from(["num_train_timesteps", "beta_schedule", "beta_start"]), VALUES))
def test_configs_of_any_values_are_built_or_told(tmp_path, config):
    kept = {"prediction_type": "v_prediction", "timestep_type": "continuous"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(kept | config))
    try:
        load_scheduler(tmp_path)
    except CheckpointError as error:
        assert "scheduler_config.json" in str(error)
