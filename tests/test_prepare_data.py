"""A folder of videos becomes a data set that training reads; the same command goes on where it was stopped."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from animation import cli
from animation.commands import prepare_data
from animation.media.images import list_frames
from animation.media.writing import write_mp4
from animation.training.check import check_data
from animation.training.clips import read_buckets, read_clip
from animation.training.preparation import PreparationSettings, is_complete
from tests import synthetic
from tests.face_models import write_face_models
from tests.pose_models import write_models


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Flags that name stand-in networks."""
    folder = tmp_path_factory.mktemp("networks")
    write_models(folder / "DWPose")
    return {
        "--detector_path": folder / "DWPose" / "yolox_l.onnx",
        "--pose_path": folder / "DWPose" / "dw-ll_ucoco_384.onnx",
        "--face_models": write_face_models(folder / "faces", ((320, 160, 60),)),
        "--device": "cpu",
    }


def somebody(image):
    """A picture with a red square, which the stand-in of the detector takes for a person."""
    half = max(image.size) // 16
    pixels = np.array(image)
    pixels[32 - half : 32 + half, 32 - half : 32 + half] = (255, 0, 0)
    return pixels


@pytest.fixture
def videos(tmp_path):
    """A square video, a tall one, a short one and a damaged one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, size, count in (("a", (64, 64), 5), ("b", (64, 128), 4), ("c", (64, 64), 2)):
        frames = [somebody(synthetic.draw_person(size, 0.2 * i, skeleton=False)) for i in range(count)]
        write_mp4(folder / f"{name}.mp4", iter(frames), 10)
    (folder / "d.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not a video")
    return folder


def run(monkeypatch, flags):
    arguments = [str(part) for pair in flags.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    try:
        cli.run(prepare_data.main)
    except SystemExit as error:
        return error.code
    return 0


def names(folder):
    return [path.name for path in list_frames(folder)]


def test_videos_become_a_data_set(monkeypatch, networks, videos, tmp_path, caplog):
    root = tmp_path / "data"
    flags = {**networks, "--videos": videos, "--root_path": root, "--least_frames": 3}
    with caplog.at_level("INFO", "animation"):
        assert run(monkeypatch, flags) == 0
    for folder, count in ((root / "rec" / "00001", 5), (root / "vec" / "00002", 4)):
        frames = [f"frame_{i}.png" for i in range(count)]
        assert names(folder / "images") == names(folder / "poses") == names(folder / "faces") == frames
        clip = read_clip(folder)
        assert (clip.missing_poses, clip.missing_masks) == (0, 0)
        sizes = {Image.open(path).size for path in (*clip.images, *clip.poses, *clip.masks)}
        assert len(sizes) == 1
        assert {0, 255} >= set(np.unique(np.asarray(Image.open(clip.masks[0])))) > {0}
    assert (root / "video_rec_path.txt").read_text() == f"{(root / 'rec' / '00001').resolve()}\n"
    assert (root / "video_vec_path.txt").read_text() == f"{(root / 'vec' / '00002').resolve()}\n"
    assert f"{root / 'rec' / '00003'}: left out: 2 frames, fewer than --least_frames 3" in caplog.text
    assert f"{root / 'rec' / '00004'}: left out: {videos / 'd.mp4'}: not a readable video" in caplog.text
    lists = [(64, 64, root / "video_rec_path.txt"), (64, 128, root / "video_vec_path.txt")]
    assert "1 of 1 clips can be trained on" in check_data(read_buckets(lists), 3, 0, 1)


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(monkeypatch, networks, videos, tmp_path):
    root = tmp_path / "data"
    flags = {**networks, "--videos": videos, "--root_path": root, "--least_frames": 3, "--end": 2}
    assert run(monkeypatch, flags) == 0
    whole = {path: path.read_bytes() for path in root.rglob("*.png")}
    times = {path: path.stat().st_mtime_ns for path in whole}
    shutil.rmtree(root / "vec" / "00002" / "poses")
    (root / "vec" / "00002" / "faces" / "frame_2.png").unlink()
    assert run(monkeypatch, flags | {"--processes": 2}) == 0
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == whole
    kept = {path for path in whole if path.stat().st_mtime_ns == times[path]}
    assert {path for path in whole if path.parent.name == "images"} <= kept
    assert {path for path in whole if "rec" in path.parts} <= kept


def test_frames_that_are_there_already(monkeypatch, networks, tmp_path):
    (clip,) = synthetic.write_clips(tmp_path / "data" / "rec", 1, (64, 64), 3)
    for path in list_frames(clip / "images"):
        Image.fromarray(somebody(Image.open(path))).save(path)
    for folder in ("poses", "faces"):
        shutil.rmtree(clip / folder)
    assert not is_complete(clip)
    flags = {**networks, "--root_path": tmp_path / "data", "--name": "rec", "--least_frames": 3}
    assert run(monkeypatch, flags) == 0
    assert is_complete(clip)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--videos": "none"}, "none: no such folder"),
        ({"--start": 9}, "no videos numbered 9 to the last"),
        ({"--end": 0}, "--end 0 is below --start 1"),
        ({"--fps": 0}, "--fps 0"),
        ({"--name": "a/b"}, "--name 'a/b'"),
        ({"--name": ".."}, "--name '..'"),
        ({"--person": "foo"}, "--person 'foo'"),
        ({"--pose_path": "none.onnx"}, "none.onnx"),
        ({"--processes": 0}, "--processes 0"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, networks, videos, tmp_path, changes, message):
    flags = {**networks, "--videos": videos, "--root_path": tmp_path / "data"}
    assert run(monkeypatch, flags | changes) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "data").exists()


def test_a_video_that_comes_later_gets_a_number_of_its_own(monkeypatch, networks, videos, tmp_path, capsys):
    root = tmp_path / "data"
    flags = {**networks, "--videos": videos, "--root_path": root, "--least_frames": 3}
    for name in ("c", "d"):
        (videos / f"{name}.mp4").unlink()
    assert run(monkeypatch, flags) == 0
    before = {path: path.read_bytes() for path in root.rglob("images/*.png")}
    shutil.copy(videos / "b.mp4", videos / "aa.mp4")  # between the others
    assert run(monkeypatch, flags) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    sources = {path.parent.name: json.loads(path.read_text())["video"] for path in root.rglob("source.json")}
    assert sources == {"00001": "a.mp4", "00002": "b.mp4", "00004": "aa.mp4"}
    assert run(monkeypatch, flags | {"--fps": 2}) == 2
    assert "or with another --fps" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "numbers"), [(".lock", [1, 2, 3, 4]), ("note.txt", [5, 2, 3, 4])])
def test_a_folder_with_nothing_but_a_lock_is_free(networks, videos, tmp_path, name, numbers):
    folder = tmp_path / "data" / "rec" / "00001"  # of a run that was killed at once
    folder.mkdir(parents=True)
    (folder / name).touch()
    flags = {flag.removeprefix("--"): str(value) for flag, value in networks.items()}
    settings = PreparationSettings(root_path=str(tmp_path / "data"), videos=str(videos), **flags)
    assert [int(job.folder.name) for job in settings.read_inputs()] == numbers


def test_nothing_that_can_be_used_is_an_error_and_leaves_no_folder(monkeypatch, networks, videos, tmp_path, capsys):
    for name in ("a", "b", "c"):
        (videos / f"{name}.mp4").unlink()
    assert run(monkeypatch, {**networks, "--videos": videos, "--root_path": tmp_path / "data"}) == 2
    assert "none of 1 clips could be prepared" in capsys.readouterr().err
    assert not list((tmp_path / "data").rglob("0*"))
