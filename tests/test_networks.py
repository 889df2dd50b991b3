"""Networks are opened once for many clips, which are those of networks that are opened anew."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from animation import face_optimization
from animation.clip.batch import MADE, ClipMaker
from animation.clip.cases import Case
from animation.clip.flow import Models
from animation.networks import ANEW, Networks
from animation.training import preparation
from animation.training.preparation import PreparationSettings, prepare
from tests.clips import clip_settings, frames_of
from tests.face_models import write_face_models
from tests.test_animate import dwpose, photo, write_dance  # noqa: F401
from tests.test_prepare_data import networks, videos  # noqa: F401

PEOPLE = {"yolox_l.onnx", "dw-ll_ucoco_384.onnx"}
FACES = {"scrfd_10g_bnkps.onnx", "glintr100.onnx"}


@pytest.fixture
def opened(monkeypatch):
    """How often each network's file was opened."""
    counts = Counter()
    start, load = onnxruntime.InferenceSession.__init__, face_optimization.load_arcface

    def start_session(self, path, *arguments, **options):
        counts[Path(path).name] += 1
        start(self, path, *arguments, **options)

    def load_arcface(path):
        counts[path.name] += 1
        return load(path)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", start_session)
    monkeypatch.setattr(face_optimization, "load_arcface", load_arcface)
    return counts


@pytest.mark.parametrize(("keep", "count"), [(True, 2), (False, 3)])
def test_what_is_at_hand_is_not_opened_again(tmp_path, keep, count):
    made, at_hand = [], Networks(keep)
    found = [at_hand.open(lambda path: made.append(path) or [path], path) for path in (tmp_path, tmp_path / "other")]
    assert len(made) == 2 and found == [[tmp_path], [tmp_path / "other"]]
    made.clear()
    opener = lambda path: made.append(path) or [path]  # noqa: E731
    first, second, third = (at_hand.open(opener, path) for path in (tmp_path, str(tmp_path), tmp_path / "other"))
    assert len(made) == count and (first is second) == keep and third is not first


@pytest.mark.slow
@pytest.mark.long
def test_clips_in_a_row_open_each_network_once(tmp_path, checkpoint, case, dwpose, photo, opened):  # noqa: F811
    faces = str(write_face_models(tmp_path / "faces", centres=((320, 130, 120),)))
    given = {"photo": photo, "video": str(write_dance(tmp_path / "dance.mp4")), "dwpose_models": dwpose}
    given |= {"face_models": faces, "face_embedding": None, "alignment": "affine", "no_figures": False}
    given |= {
        "face_optimization": True,
        "num_optimization_iter": 1,
        "size": "128x128",
        "num_inference_steps": 1,
        "max_seconds": 0.1,
    }
    settings = clip_settings(tmp_path, checkpoint, case, **given)

    def make(maker, folder):
        cases = [Case(f"{i}", replace(settings, output=str(tmp_path / folder / f"{i}"), seed=i)) for i in range(3)]
        opened.clear()
        rows = [maker(replace(each, settings=each.settings.resolve())) for each in cases]
        assert [row["state"] for row in rows] == [MADE] * 3, rows
        return [frames_of(row["output"]) for row in rows]

    kept, anew = ClipMaker(), ClipMaker()
    anew.models = Models(networks=ANEW)
    found = make(kept, "kept")
    assert opened == dict.fromkeys((*PEOPLE, *FACES, "glintr100_torch.pth"), 1)
    expected = make(anew, "anew")  # a control
    assert opened == dict.fromkeys((*PEOPLE, "glintr100_torch.pth"), 3) | dict.fromkeys(FACES, 6)
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.slow
def test_a_data_set_opens_each_network_once(tmp_path, networks, videos, opened, monkeypatch):  # noqa: F811
    given = {name.removeprefix("--"): str(value) for name, value in networks.items()}
    given |= {"videos": str(videos), "least_frames": 2}

    def make(root):
        settings = PreparationSettings(**given, root_path=str(tmp_path / root))
        opened.clear()
        prepare(settings, settings.read_inputs())
        paths = sorted((tmp_path / root).rglob("*.png"))
        return {str(path.relative_to(tmp_path / root)): path.read_bytes() for path in paths}

    found = make("kept")
    assert opened == dict.fromkeys(PEOPLE | FACES, 1)
    monkeypatch.setattr(preparation, "Networks", lambda keep: ANEW)
    assert make("anew") == found
    assert opened == dict.fromkeys(PEOPLE | FACES, 3)  # a control
