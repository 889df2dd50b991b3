import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animation import cli
from animation.commands import doctor
from animation.weights import diagnosis
from animation.weights.verification import OK, PROBLEM, WARNING
from DWPose.keypoints import People
from tests import face_models, pose_models, synthetic
from tests.test_skeleton_extraction import picture

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folders(tmp_path):
    """Checkpoints, face models, a photo and a driver that are as they should be."""
    synthetic.write_checkpoint(tmp_path / "checkpoints")
    pose_models.write_models(tmp_path / "checkpoints" / "DWPose")
    models = tmp_path / "models"
    models.mkdir()
    face_models.write_detector(models / "scrfd_10g_bnkps.onnx", [(320, 200, 60)])
    face_models.write_recogniser(models / "glintr100.onnx")
    Image.fromarray(picture((100, 150), width=200, height=300)).save(tmp_path / "photo.png")
    (tmp_path / "driver").mkdir()
    Image.fromarray(picture((160, 120))).save(tmp_path / "driver" / "frame_0.png")
    return tmp_path


def findings(folder, monkeypatch, capsys, *more):
    """Findings by subject, and the exit status."""
    flags = ["--json", "--checkpoints", f"{folder}/checkpoints", "--face_models", f"{folder}/models", *more]
    monkeypatch.setattr(sys, "argv", ["doctor.py", *flags])
    capsys.readouterr()
    status = 0
    try:
        cli.run(doctor.main)
    except SystemExit as ended:
        status = ended.code
    return {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}, status


def test_all_is_well(folders, monkeypatch, capsys):
    more = ["--photo", f"{folders}/photo.png", "--driver", f"{folders}/driver"]
    found, status = findings(folders, monkeypatch, capsys, *more)
    assert status == 0, found
    assert all(finding["level"] != PROBLEM for finding in found.values())
    parts = {"pose_net", "face_encoder", "unet", "vae", "image_encoder", "scheduler", "person detector"}
    parts |= {
        "pose estimator",
        "face models",
        "photo's face",
        "photo's person",
        "driver's person",
        "driver's border",
        "view",
        "alignment",
    }
    assert {found[part]["level"] for part in parts} == {OK}
    assert "by the face detector" in found["photo's face"]["text"]
    assert found["onnxruntime"]["text"].endswith("runs on CPUExecutionProvider")


def test_each_damage_is_a_problem_with_a_remedy(folders, monkeypatch, capsys):
    (folders / "checkpoints" / "Animation" / "pose_net.pth").write_text("version https://git-lfs.github.com/spec/v1")
    (folders / "checkpoints" / "DWPose" / "yolox_l.onnx").unlink()
    (folders / "models" / "glintr100.onnx").unlink()
    found, status = findings(folders, monkeypatch, capsys, "--photo", f"{folders}/none.png")
    assert status == 1
    for part, text in (
        ("pose_net", "git-lfs"),
        ("person detector", "no such file"),
        ("face models", "are not there"),
        ("photo's face", "no such photo"),
    ):
        assert found[part]["level"] == PROBLEM
        assert text in found[part]["text"], part
    assert found["pose_net"]["remedy"]
    assert found["unet"]["level"] == OK  # the others are looked at all the same


def test_a_photo_without_a_face_and_a_far_pose_are_warnings(folders, monkeypatch, capsys):
    face_models.write_detector(folders / "models" / "scrfd_10g_bnkps.onnx", [])
    monkeypatch.setattr("animation.weights.diagnosis.FAR_FROM_PHOTO", -1)
    more = ["--photo", f"{folders}/photo.png", "--driver", f"{folders}/driver"]
    found, status = findings(folders, monkeypatch, capsys, *more)
    assert status == 0
    assert found["alignment"]["level"] == WARNING
    assert found["photo's face"]["level"] == OK
    assert "DWPose's face points" in found["photo's face"]["text"]


def test_the_face_is_looked_for_in_its_own_picture(folders, monkeypatch, capsys):
    Image.new("RGB", (400, 500)).save(folders / "face.png")
    more = ["--photo", f"{folders}/photo.png", "--face_photo", f"{folders}/face.png"]
    found, status = findings(folders, monkeypatch, capsys, *more)
    assert (status, "photo's face" in found, found["face's own picture"]["level"]) == (0, False, OK)
    assert "of 400×500, found by the face detector" in found["face's own picture"]["text"]
    found, status = findings(folders, monkeypatch, capsys, "--face_photo", f"{folders}/none.png")
    assert (status, found["face's own picture"]["level"]) == (1, PROBLEM)


def test_versions():
    tried = {"numpy": np.__version__, "pillow": "0.1", "no-such-library": "1.0"}
    levels = {finding.text: finding.level for finding in diagnosis.check_versions(tried)}
    assert levels["not installed: no-such-library"] == PROBLEM
    assert any("instead of 0.1" in text and level == WARNING for text, level in levels.items())
    assert [finding.level for finding in diagnosis.check_versions(diagnosis.tried_versions())] == [OK, OK]


def boxes(*corners):
    return np.array(corners, float).reshape(-1, 4)


@pytest.mark.parametrize(
    ("box", "touches"),
    [
        ((10, 10, 90, 190), False),
        ((-3, 10, 90, 190), True),
        ((10, 1, 90, 190), True),
        ((10, 10, 99.5, 190), True),
        ((10, 10, 90, 199), True),
    ],
)
def test_a_person_at_the_border_is_told(box, touches):
    inside = (20, 20, 80, 150)
    found = diagnosis.check_border([boxes(inside), boxes(), boxes(inside, box)], (100, 200))
    assert found.level == (WARNING if touches else OK)
    assert f"touched by somebody in {int(touches)} of 3 frames" in found.text


def people(*visible):
    """Somebody small of whom all is seen, and somebody large of whom the named points of COCO are."""
    scores = np.zeros((2, 133))
    scores[0] = 1
    scores[1, list(visible)] = 1
    return People(boxes((0, 0, 5, 5), (0, 0, 50, 90)), np.zeros((2, 133, 2)), scores)


def test_a_half_body_against_a_full_one_is_told():
    whole, half, head = people(5, 6, 11, 13, 15), people(5, 6, 11, 12), people(0)
    assert [diagnosis.view(found) for found in (whole, half, head)] == [
        "the whole body",
        "the body down to the hips",
        "a head",
    ]
    assert diagnosis.check_views(whole, people(5, 6, 16)).level == OK
    found = diagnosis.check_views(half, whole)
    assert found.level == WARNING
    assert found.text == "the photo shows the body down to the hips, and the driver's first frame the whole body"


@pytest.mark.slow
def test_all_is_well_on_a_fresh_clone(tmp_path):
    """The small networks are in use, and what the released ones would need is a note."""
    done = subprocess.run([sys.executable, ROOT / "doctor.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("problem")]
    assert any(line.startswith("ok       unet: ") for line in lines)
    assert any(line.startswith("ok       Python: ") for line in lines)
    (networks,) = (line for line in lines if " networks: " in line)
    assert networks.startswith("note ")
    assert "checkpoints/tiny are used" in networks
    assert "download_weights.py" in networks


@pytest.mark.slow
def test_half_a_download_is_a_problem(tmp_path):
    """Where some of the released weights are there, the others are missing."""
    (tmp_path / "checkpoints" / "DWPose").mkdir(parents=True)
    pose_models.write_models(tmp_path / "checkpoints" / "DWPose")
    done = subprocess.run([sys.executable, ROOT / "doctor.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       networks: the released ones, in checkpoints and models/") for line in lines)
    assert any(line.startswith("ok       person detector: ") for line in lines)
    assert any(line.startswith("problem  pose_net: ") for line in lines)
