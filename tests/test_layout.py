"""Which set of checkpoints is taken, for every mixture of what is there."""

import itertools
import json
import logging
from pathlib import Path

import pytest

from animation.errors import CheckpointError
from animation.weights import layout
from animation.weights.layout import find_checkpoints

PARTS = {
    "animation": "checkpoints/{}Animation/unet.pth",
    "safetensors": "checkpoints/{}Animation/pose_net.safetensors",
    "svd": "checkpoints/{}SVD/stable-video-diffusion-img2vid-xt/model_index.json",
    "dwpose": "checkpoints/{}DWPose/yolox_l.onnx",
    "faces": "models/{}antelopev2/glintr100.onnx",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STABLEANIMATOR_HOME", str(tmp_path))


def touch(root, part, tiny):
    path = root / PARTS[part].format("tiny/" if tiny else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


@pytest.mark.parametrize(("released", "tiny"), list(itertools.product([None, *PARTS], repeat=2)))
def test_the_small_set_is_taken_only_where_nothing_of_the_released_one_is_there(tmp_path, released, tiny):
    for part, is_tiny in ((released, False), (tiny, True)):
        if part is not None:
            touch(tmp_path, part, is_tiny)
    found = find_checkpoints()
    assert found.tiny == (released is None and tiny is not None)
    folder = tmp_path / "checkpoints" / ("tiny" if found.tiny else "")
    assert found.unet == folder / "Animation" / "unet.pth"
    assert found.svd == folder / "SVD" / "stable-video-diffusion-img2vid-xt"
    assert (found.detector, found.pose_estimator) == (
        folder / "DWPose" / "yolox_l.onnx",
        folder / "DWPose" / "dw-ll_ucoco_384.onnx",
    )
    assert found.face_models == tmp_path / "models" / ("tiny/antelopev2" if found.tiny else "antelopev2")
    sizes = tuple(found.suits.get(name) for name in ("width", "height", "canvas"))
    assert sizes == ((128, 128, 384) if found.tiny else (576, 1024, None))


def test_svd_may_lie_directly_in_its_folder_and_faces_nested(tmp_path):
    for name in ("checkpoints/SVD/model_index.json", "models/antelopev2/antelopev2/glintr100.onnx"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
        touch(tmp_path, "animation", True)
        assert not find_checkpoints().tiny
    assert find_checkpoints().svd == tmp_path / "checkpoints" / "SVD"


def test_the_small_set_says_what_it_is_good_at(tmp_path, monkeypatch, caplog):
    touch(tmp_path, "animation", True)
    path = tmp_path / "checkpoints" / "tiny" / "model.json"
    path.write_text(json.dumps({"width": 192, "canvas": 500, "guidance_scale": 2, "other": None}))
    found = find_checkpoints()
    assert found.suits == {
        "width": 192,
        "height": 128,
        "canvas": 500,
        "guidance_scale": 2,
        "num_inference_steps": 6,
    }
    found.announce()
    assert "SMALL" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    monkeypatch.setenv("STABLEANIMATOR_HOME", str(tmp_path / "nowhere"))
    find_checkpoints().announce()
    assert not caplog.records


SENSELESS = (
    "",
    "[]",
    "{",
    "null",
    '{"width": 0}',
    '{"width": "128"}',
    '{"canvas": true}',
    '{"guidance_scale": "3"}',
    '{"guidance_scale": NaN}',
)


@pytest.mark.parametrize("content", SENSELESS)
def test_a_description_that_makes_no_sense_is_refused(tmp_path, content):
    touch(tmp_path, "animation", True)
    path = tmp_path / "checkpoints" / "tiny" / "model.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        find_checkpoints()


def test_home_is_the_named_folder_else_the_first_that_holds_weights(tmp_path, monkeypatch):
    """$STABLEANIMATOR_HOME, the working directory, the source checkout, the installed package."""
    folders = {name: tmp_path / name for name in ("named", "working", "checkout", "installed")}
    for folder in folders.values():
        (folder / "models").mkdir(parents=True)  # without weights it does not count
    monkeypatch.chdir(folders["working"])
    monkeypatch.delenv("STABLEANIMATOR_HOME", raising=False)
    monkeypatch.setattr(layout, "CHECKOUT", folders["checkout"])
    monkeypatch.setattr(layout, "INSTALLED", folders["installed"])
    assert layout.home() == layout.download_folder() == Path()
    touch(folders["installed"], "animation", True)
    assert layout.home() == folders["installed"]
    assert find_checkpoints().unet == folders["installed"] / "checkpoints/tiny/Animation/unet.pth"
    assert layout.download_folder() == Path(), "never into an installed package"
    touch(folders["checkout"], "faces", True)
    assert layout.home() == layout.download_folder() == folders["checkout"]
    touch(folders["working"], "dwpose", False)
    assert layout.home() == layout.download_folder() == Path()
    assert find_checkpoints().unet == Path("checkpoints/Animation/unet.pth")
    monkeypatch.setenv("STABLEANIMATOR_HOME", str(folders["named"]))
    assert layout.home() == layout.download_folder() == folders["named"]
    assert find_checkpoints().detector == folders["named"] / "checkpoints/DWPose/yolox_l.onnx"


def test_paths_that_are_left_out_are_found(tmp_path, caplog):
    touch(tmp_path, "animation", True)
    found = layout.find_parts(svd="here", unet=None)
    assert (found.svd, found.unet) == (Path("here"), tmp_path / "checkpoints/tiny/Animation/unet.pth")
    assert "SMALL" in caplog.text
    caplog.clear()
    assert layout.find_parts(svd="here").svd == Path("here")
    assert not caplog.records


def test_parts_beside_another_unet_are_never_the_small_ones(tmp_path, caplog):
    touch(tmp_path, "animation", True)
    found = layout.find_parts(unet=tmp_path / "mine.pth", pose_net=None)
    assert (found.unet, found.pose_net) == (tmp_path / "mine.pth", tmp_path / "checkpoints/Animation/pose_net.pth")
    assert not caplog.records
    small = layout.find_parts(unet=tmp_path / "checkpoints/tiny/Animation/unet.safetensors", pose_net=None)
    assert small.pose_net == tmp_path / "checkpoints/tiny/Animation/pose_net.pth"
