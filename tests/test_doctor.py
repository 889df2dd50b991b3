import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import doctor
from animation import cli
from animation.weights import diagnosis
from animation.weights.verification import OK, PROBLEM, WARNING
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
    parts |= {"pose estimator", "face models", "photo's face", "photo's person", "driver's person", "alignment"}
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


def test_versions(tmp_path):
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"numpy=={np.__version__}\n# comment\npillow==0.1\nno-such-library==1.0\n")
    levels = {finding.text: finding.level for finding in diagnosis.check_versions(pins)}
    assert levels["not installed: no-such-library"] == PROBLEM
    assert any("instead of 0.1" in text and level == WARNING for text, level in levels.items())
    assert [finding.level for finding in diagnosis.check_versions()] == [OK, OK]


def test_script_prints_a_line_a_finding(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "doctor.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("problem  pose_net: ") for line in lines)
    assert any(line.startswith("ok       Python: ") for line in lines)
