"""Shared fixtures: tiny random components, a synthetic checkpoint on disk, and the recorded reference where it is."""

import os
from pathlib import Path

import pytest
import torch

from tests import synthetic

# Tiny networks gain nothing from more threads, and lose much where other work takes the cores from under them.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the scripts that tests start

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


def pytest_runtest_setup(item):
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """|found − expected| / |expected|."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture(scope="session")
def components():
    """Small networks by name, float32; tests must not change them."""
    return synthetic.tiny_components()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a small checkpoint in the released layout."""
    return synthetic.write_checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """A folder with a photo, eight poses and a face embedding."""
    return synthetic.write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="session")
def reference():
    """The folder of recorded numbers of the original."""
    if not REFERENCE.is_dir():
        pytest.skip("the recorded reference numbers are not on this machine")
    return REFERENCE


def checkpoint_paths(folder: Path) -> dict[str, Path]:
    """Arguments of `AnimationPipeline.from_checkpoints` for a checkpoint folder."""
    return {
        "svd_folder": folder / "SVD",
        "unet_path": folder / "Animation" / "unet.pth",
        "pose_net_path": folder / "Animation" / "pose_net.pth",
        "face_encoder_path": folder / "Animation" / "face_encoder.pth",
    }


def checkpoint_flags(folder: Path) -> list[str]:
    """The same as flags of `inference_basic.py`."""
    names = {"unet": "unet", "posenet": "pose_net", "face_encoder": "face_encoder"}
    flags = ["--pretrained_model_name_or_path", str(folder / "SVD" / synthetic.SVD_FOLDER)]
    for flag, name in names.items():
        flags += [f"--{flag}_model_name_or_path", str(folder / "Animation" / f"{name}.pth")]
    return flags
