"""Small data and flags to train with."""

import pytest

from tests import synthetic
from tests.face_models import write_face_models
from tests.training.runs import reset_engine


@pytest.fixture(autouse=True)
def fresh_engine():
    """Each run here starts without what an earlier one left in the process."""
    yield
    reset_engine()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three clips of 128×128, their list, and face models."""
    folder = tmp_path_factory.mktemp("data")
    clips = synthetic.write_clips(folder / "rec", 3, (128, 128), 6)
    (folder / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
    write_face_models(folder / "faces")
    return folder


@pytest.fixture
def flags(data, checkpoint, tmp_path):
    """A small run: three steps of two frames of 128×128."""
    return {
        "--pretrained_model_name_or_path": checkpoint / "SVD",
        "--data_path": data / "list.txt",
        "--dataset_width": 128,
        "--dataset_height": 128,
        "--sample_n_frames": 2,
        "--face_models": data / "faces",
        "--cache_dir": data / "cache",
        "--num_workers": 0,
        "--output_dir": tmp_path / "out",
        "--max_train_steps": 3,
        "--learning_rate": 1e-3,
        "--seed": 7,
        "--report_to": "none",
        "--cpu": None,
    }
