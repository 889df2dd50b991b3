import itertools
import logging
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from animation.commands import skeleton_extraction
from animation.errors import InputError
from animation.skeletons import estimation
from animation.skeletons.extraction import extract
from animation.skeletons.settings import SkeletonSettings
from DWPose import pose, sessions
from DWPose.recording import load_recording
from DWPose.wholebody import Wholebody
from tests import pose_models
from tests.test_video import write_video

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 320, 240
BLOB = 12  # half the side of the red square that the detector takes for a person, pixels


def picture(*centres, width=WIDTH, height=HEIGHT):
    """A blue picture with a person, a red square, at each centre."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 20
    for x, y in centres:
        cv2.rectangle(image, (x - BLOB, y - BLOB), (x + BLOB, y + BLOB), (255, 0, 0), cv2.FILLED)
    return image


def write_frames(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")
    return folder


WALK = [picture((88 + 16 * k, 120)) for k in range(8)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pose_models.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def flags(tmp_path, models):
    """Settings of a run on eight frames of a walk."""
    Image.fromarray(picture((100, 150), width=200, height=300)).save(tmp_path / "photo.png")
    return {
        "target_image_folder_path": str(write_frames(tmp_path / "frames", WALK)),
        "ref_image_path": str(tmp_path / "photo.png"),
        "poses_folder_path": str(tmp_path / "poses"),
        "detector_path": str(models[0]),
        "pose_path": str(models[1]),
        "device": "cpu",
    }


def run(flags, **changes):
    """Extract, and return the skeletons."""
    settings = SkeletonSettings(**(flags | changes))
    extract(settings, settings.read_inputs())
    return skeletons(settings.poses_folder_path)


def skeletons(folder):
    paths = itertools.takewhile(Path.exists, (Path(folder) / f"frame_{i}.png" for i in itertools.count()))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_the_stand_ins_react_to_the_picture(models):
    people = Wholebody(*models, "cpu")(picture((88, 120), (248, 120)))
    assert sorted(people.boxes[:, [0, 2]].mean(axis=1).round()) == [88, 248]
    assert people.keypoints.shape == (2, 134, 2)
    assert len(Wholebody(*models, "cpu").detector(picture())) == 0


def test_script_writes_skeletons_and_key_points(flags, tmp_path):
    command = [sys.executable, str(ROOT / "skeleton_extraction.py")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    command += [f"--preview={tmp_path / 'preview.mp4'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "yolox_l.onnx runs on CPUExecutionProvider" in done.stderr
    assert "mean confidence 0.9" in done.stderr
    names = {path.name for path in (tmp_path / "poses").iterdir()}
    assert names == {"keypoints.npz", *(f"frame_{i}.png" for i in range(8))}
    found = skeletons(tmp_path / "poses")
    assert found.shape == (8, 300, 200, 3)
    assert all(frame.any() for frame in found)
    with av.open(str(tmp_path / "preview.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 8
    recording = load_recording(tmp_path / "poses" / "keypoints.npz")
    assert len(recording.video) == recording.drawn.num_frames == 8
    assert recording.drawn.size == (200, 300)
    assert set(recording.sources) == {"detector", "pose", "driver", "photo", "widened"}
    assert len(recording.sources["pose"]["sha256"]) == 64


def test_a_video_gives_the_skeletons_of_its_frames(flags, tmp_path):
    from_folder = run(flags)
    video = write_video(tmp_path / "walk.mkv", np.stack(WALK), lossless=True)
    from_video = run(
        flags, target_image_folder_path=None, target_video=str(video), poses_folder_path=str(tmp_path / "other")
    )
    np.testing.assert_array_equal(from_folder, from_video)
    shorter = run(flags, target_image_folder_path=None, target_video=str(video), stride=3)
    np.testing.assert_array_equal(shorter.shape[0], 3)
    assert sorted(path.name for path in (tmp_path / "poses").glob("*.png")) == [f"frame_{i}.png" for i in range(3)]


def test_alignment_puts_the_driver_where_the_photo_s_person_is(flags):
    fitted = [np.argwhere(frame.any(axis=-1)).mean(axis=0) for frame in run(flags)]
    np.testing.assert_allclose(np.mean(fitted, axis=0), (150, 100), atol=20)  # y, x
    own = run(flags, alignment="none", ref_image_path=None)
    assert own.shape == (8, HEIGHT, WIDTH, 3)
    assert run(flags, size="128x192").shape == (8, 192, 128, 3)


def test_again_from_key_points_without_networks(flags, tmp_path, monkeypatch, models):
    everything = run(flags)
    smooth = run(flags, smooth=True, alignment="limb", poses_folder_path=str(tmp_path / "smooth"))
    keypoints = tmp_path / "kept.npz"
    (tmp_path / "poses" / "keypoints.npz").rename(keypoints)
    monkeypatch.setattr(sessions, "open_session", None)  # calling it fails
    monkeypatch.setattr(estimation, "Wholebody", None)
    only = {"poses_folder_path": str(tmp_path / "again"), "keypoints": str(keypoints)}
    np.testing.assert_array_equal(run(only), everything)
    with pytest.raises(InputError, match="which part of a driver is taken"):
        run(only, stride=2)
    np.testing.assert_array_equal(run(only, smooth=True, alignment="limb"), smooth)
    assert (everything != smooth).any()
    with pytest.raises(TypeError):  # the control: without the key points the networks are needed
        run(flags)


def test_the_same_driver_is_not_estimated_twice(flags, monkeypatch):
    before = run(flags)
    monkeypatch.setattr(estimation, "Wholebody", None)
    np.testing.assert_array_equal(run(flags), before)
    assert (run(flags, alignment="affine_legacy") != before).any()


def test_another_photo_beside_key_points_is_estimated_alone(flags, tmp_path, monkeypatch):
    run(flags)
    Image.fromarray(picture((100, 100), width=200, height=200)).save(tmp_path / "second.png")
    calls = []
    estimate = Wholebody.estimate
    monkeypatch.setattr(Wholebody, "estimate", lambda *args: calls.append(1) or estimate(*args))
    found = run(flags, keypoints=str(tmp_path / "poses" / "keypoints.npz"), ref_image_path=str(tmp_path / "second.png"))
    assert found.shape == (8, 200, 200, 3)
    assert len(calls) == 1


def test_an_interrupted_run_is_gone_on_with(flags, tmp_path, monkeypatch, caplog):
    whole = run(flags, poses_folder_path=str(tmp_path / "whole"))
    estimate, calls = Wholebody.estimate, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 6:  # the photo and five frames
            raise KeyboardInterrupt
        return estimate(*args)

    monkeypatch.setattr(Wholebody, "estimate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(flags)
    assert [path.name for path in (tmp_path / "poses").iterdir()] == [estimation.UNFINISHED_FILE]
    with caplog.at_level(logging.INFO):
        found = run(flags)
    assert "4 frames by these networks" in caplog.text
    assert len(calls) == 6 + 4
    np.testing.assert_array_equal(found, whole)
    assert not (tmp_path / "poses" / estimation.UNFINISHED_FILE).exists()


def test_frames_of_several_sizes_are_normalised_each_by_its_own(flags, tmp_path, caplog):
    """As the original: a driver of which every other frame is twice as large has the same skeletons."""
    frames = [cv2.resize(frame, None, fx=1 + k % 2, fy=1 + k % 2) for k, frame in enumerate(WALK)]
    mixed = {"target_image_folder_path": str(write_frames(tmp_path / "mixed", frames))}
    with caplog.at_level(logging.INFO):
        run(flags, **mixed, widen_boxes=True)
    assert "frames of several sizes (320×240, 640×480)" in caplog.text
    found = load_recording(tmp_path / "poses" / "keypoints.npz").drawn.keypoints
    run(flags, widen_boxes=True)
    np.testing.assert_allclose(load_recording(tmp_path / "poses" / "keypoints.npz").drawn.keypoints, found, atol=0.02)


def test_two_people_in_every_frame(flags, tmp_path):
    frames = [picture((72 + 4 * k, 120), (248, 120)) for k in range(6)]
    both = {"target_image_folder_path": str(write_frames(tmp_path / "both", frames))}
    drawn = {person: run(flags, **both, person=person, alignment="none") for person in ("0", "1", "all", "track")}
    np.testing.assert_array_equal(np.maximum(drawn["0"], drawn["1"]) > 0, drawn["all"] > 0)
    assert any((drawn["track"] == drawn[person]).all() for person in "01")
    for alignment in ("affine", "affine_legacy", "limb"):
        for person in ("track", "largest", "all", "1"):
            assert run(flags, **both, person=person, alignment=alignment)[0].any()


@pytest.mark.parametrize("missing", ["interpolate", "hold", "blank"])
def test_frames_without_a_person(flags, tmp_path, caplog, missing):
    """The estimator sees its figure in any picture: it is the detector that counts."""
    frames = [*WALK[:3], picture(), picture(), *WALK[5:]]
    found = run(
        flags, target_image_folder_path=str(write_frames(tmp_path / "gap", frames)), missing=missing, alignment="none"
    )
    assert "not found in 2 of 8 frames: 3, 4" in caplog.text
    whole = run(flags, alignment="none")
    assert found[3:5].any() == (missing != "blank")
    if missing == "interpolate":  # the walk is even, so the gap closes: but for where points are truncated
        assert (found != whole).any(axis=-1).mean() < 0.02
    if missing == "hold":
        np.testing.assert_array_equal(found[4], found[2])


def test_a_driver_of_nobody_is_one_line_unless_everybody_is_asked_for(flags, tmp_path, caplog):
    empty = {"target_image_folder_path": str(write_frames(tmp_path / "empty", [picture()] * 3))}
    with pytest.raises(InputError, match="no person was found in any frame of the driver"):
        run(flags, **empty)
    assert not list((tmp_path / "poses").glob("*.png"))
    assert run(flags, **empty, person="all", alignment="none").any()  # as the original
    assert "person in 100.0% of frames" in caplog.text or not caplog.text


def test_a_preview_draws_the_photo_s_skeleton_as_the_run_takes_it(flags, tmp_path):
    """With everybody, as in the original, what the estimator sees where the detector finds nobody counts."""
    Image.fromarray(picture(width=200, height=300)).save(tmp_path / "empty.png")
    shown = {}
    for person, alignment in (("all", "affine"), ("track", "none")):
        preview, photo = tmp_path / f"{person}.mp4", str(tmp_path / "empty.png")
        run(flags, person=person, alignment=alignment, ref_image_path=photo, preview=str(preview))
        with av.open(str(preview)) as container:
            panel = next(container.decode(video=0)).to_ndarray(format="rgb24")[40:500, : round(512 * 200 / 300) - 10]
        shown[person] = int((panel[..., 1] > 100).sum())  # the photo is all blue
    assert shown["all"] > 100
    assert shown["track"] == 0


def test_boxes_are_widened_on_request_and_estimated_anew(flags, tmp_path, monkeypatch):
    regions = []
    call = pose.PoseEstimator.__call__
    monkeypatch.setattr(pose.PoseEstimator, "__call__", lambda *args: regions.append(args[2]) or call(*args))
    run(flags)
    narrow = regions[1:]  # after the photo's
    del regions[:]
    run(flags, widen_boxes=True)
    assert len(regions) == 9  # nothing is taken from the earlier run
    del regions[0]
    np.testing.assert_array_equal(regions[0], narrow[0])
    for wide, detected, before in zip(regions[1:], narrow[1:], narrow[:-1], strict=True):
        assert (wide[0, :2] <= detected[0, :2]).all()
        assert (wide[0, 2:] >= detected[0, 2:]).all()
        assert wide[0, 0] < detected[0, 0] or before[0, 0] > detected[0, 0]  # it walked to the right: its left hand
    recording = load_recording(tmp_path / "poses" / "keypoints.npz")
    np.testing.assert_allclose(recording.video[3].boxes, narrow[3])  # people are followed by the detector's boxes
    del regions[:]
    run(flags, widen_boxes=True, person="largest")
    np.testing.assert_array_equal(regions[1:], narrow)


def test_a_far_first_pose_is_told(flags, tmp_path, caplog):
    run(flags, target_image_folder_path=str(write_frames(tmp_path / "standing", WALK[:1] * 3)))
    assert "costs the face" not in caplog.text
    run(flags)  # walks through the place of the photo's person
    assert "the first pose is 0.4" in caplog.text
    assert "start 0.10 s later, at frame 3, which is 0.0" in caplog.text


def test_a_walk_out_of_the_picture_is_told(flags, tmp_path, caplog):
    told = "the person is partly outside of the picture in "
    run(flags)
    assert told not in caplog.text
    Image.fromarray(picture((40, 150), width=200, height=300)).save(tmp_path / "photo.png")
    run(flags, person="all")
    assert told not in caplog.text  # people may come and go
    run(flags)
    assert f"{told}3 of 8 frames: 0, 1, 2; take a photo with more room" in caplog.text


def test_boxes_run_in_one_batch_where_the_network_allows_it(tmp_path, models):
    frame = picture((56, 120), (168, 120), (264, 120))
    free = pose_models.write_models(tmp_path, batch="n")
    one, many = Wholebody(*models, "cpu"), Wholebody(*free, "cpu")
    assert (one.estimator.batch_size, many.estimator.batch_size) == (1, pose.LARGEST_BATCH)
    runs = []
    session = many.estimator.session
    many.estimator.session = type("Counting", (), {"run": lambda self, *args: runs.append(1) or session.run(*args)})()
    found, expected = many(frame), one(frame)
    assert len(runs) == 1
    np.testing.assert_allclose(found.keypoints, expected.keypoints)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def test_cuda_that_is_not_there_is_a_warning_with_the_reason(models, caplog, monkeypatch):
    monkeypatch.setattr(sessions.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with caplog.at_level(logging.INFO):
        sessions.open_session(models[0], "cuda")
        assert "runs on the CPU though CUDA was asked for: this onnxruntime has no CUDA" in caplog.text
        caplog.clear()
        sessions.open_session(models[0], "auto")
    assert caplog.messages == ["yolox_l.onnx runs on CPUExecutionProvider"]


def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path, models):
    (tmp_path / "no_frames").mkdir()
    write_frames(tmp_path / "unnamed", WALK[:1])
    (tmp_path / "unnamed" / "frame_0.png").rename(tmp_path / "unnamed" / "frame.png")
    write_frames(tmp_path / "broken", WALK[:2])
    (tmp_path / "broken" / "frame_1.png").write_bytes(b"PNG?")
    (tmp_path / "text.mp4").write_text("text")
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    pointer, page, noise = (tmp_path / f"{name}.onnx" for name in ("pointer", "page", "noise"))
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    page.write_text("<!doctype html><html>")
    noise.write_bytes(b"\x08\x07noise")
    no_driver = {"target_image_folder_path": None}
    cases = [
        ({"target_image_folder_path": str(tmp_path / "none")}, "no such folder"),
        ({"target_image_folder_path": str(tmp_path / "no_frames")}, "no PNG or JPEG frames"),
        ({"target_image_folder_path": str(tmp_path / "unnamed")}, "frame.png: its name has no number"),
        ({"target_image_folder_path": str(tmp_path / "broken")}, "frame_1.png: not a readable image"),
        (no_driver, "nothing to take skeletons from"),
        ({"target_video": "x.mp4"}, "both --target_video and"),
        (no_driver | {"target_video": str(tmp_path / "none.mp4")}, "no such video"),
        (no_driver | {"target_video": str(tmp_path / "text.mp4")}, "not a readable video"),
        ({"ref_image_path": str(tmp_path / "none.png")}, "no such photo"),
        ({"ref_image_path": None}, "--alignment affine needs the photo"),
        ({"detector_path": str(tmp_path / "none.onnx")}, "none.onnx: no such file; download none.onnx from the folder"),
        ({"pose_path": str(pointer)}, "a git-lfs pointer"),
        ({"pose_path": str(page)}, "a web page"),
        ({"detector_path": str(noise)}, "noise.onnx: not a network that onnxruntime can open"),
        ({"detector_path": str(models[1])}, r"expected input \(1, 3, 640, 640\), .*found input \(1, 3, 384, 288\)"),
        (
            {"pose_path": str(models[0])},
            r"expected input \(1, 3, 384, 288\), simcc_x \(1, 133, .*found .*output \(1, 8400, 85\)",
        ),
        ({"alignment": "rigid"}, "--alignment 'rigid' is unknown; give one of affine, affine_legacy, limb, none"),
        ({"missing": "guess"}, "--missing 'guess'"),
        ({"device": "tpu"}, "--device 'tpu'"),
        ({"person": "me"}, "--person 'me'"),
        ({"person": "5"}, "person 5: no frame has more than 1 people"),
        ({"confidence": 2.0}, "--confidence 2.* is not below 1"),
        ({"size": "big"}, "--size big"),
        ({"size": "0x10"}, "--size '0x10'"),
        ({"stride": 0}, "--stride 0"),
        ({"keypoints": str(tmp_path / "none.npz")}, "none.npz: no such file"),
        ({"preview": str(tmp_path / "p.avi")}, "not an MP4 file's name"),
        ({"preview": str(tmp_path / "folder.mp4")}, "not an MP4 file's name"),
        ({"size": "16x8000"}, "at most 8 times the other"),
        ({"target_image_folder_path": ""}, "--target_image_folder_path is empty"),
        ({"keypoints": str(tmp_path / "text.mp4")}, "text.mp4: not a file of key points"),
        ({"poses_folder_path": str(tmp_path / "file" / "poses")}, "cannot be written to"),
        ({"poses_folder_path": flags["target_image_folder_path"]}, "is the driver's own folder"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            run(flags, **changes)
        assert not (tmp_path / "poses").exists() or not any((tmp_path / "poses").iterdir()), changes


def test_a_photo_without_a_person_is_told_before_the_driver_is_read(flags, tmp_path, monkeypatch):
    Image.fromarray(picture(width=200, height=300)).save(tmp_path / "empty.png")
    monkeypatch.setattr(estimation, "_record_driver", None)
    with pytest.raises(InputError, match=r"no person was found in the photo.*--alignment none"):
        run(flags, ref_image_path=str(tmp_path / "empty.png"))


def test_status_of_bad_input(flags, tmp_path, capsys, monkeypatch):
    from animation import cli

    arguments = [f"--{name}={value}" for name, value in (flags | {"size": "big"}).items()]
    monkeypatch.setattr(sys, "argv", ["skeleton_extraction.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.run(skeleton_extraction.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --size big: not understood")


def test_dwpose_imports_neither_torch_nor_animation():
    code = (
        "import sys, DWPose.wholebody, DWPose.arrangement, DWPose.drawing; "
        "assert not {'torch', 'animation'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
