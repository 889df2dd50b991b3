"""Puppets on disk: every folder whole, in the layouts that inference, training and evaluation read."""

import json
import shutil
import signal
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from animation import cli
from animation.commands import make_puppets
from animation.errors import InputError
from animation.evaluation.cases import find_cases
from animation.evaluation.evaluation import measure_case
from animation.evaluation.measures import Pixels
from animation.media.images import FrameFolder, load_photo
from DWPose.drawing import draw
from DWPose.recording import load_recording
from puppets import writing
from puppets.clips import face_masks, make_clip
from puppets.hiding import WAYS, hide
from puppets.writing import DRIVERS, Format, photo_moment, write_case, write_clip

FORM = Format(width=48, height=64, num_frames=3)


def pixels(path):
    return np.asarray(Image.open(path))


def run(monkeypatch, capsys, *arguments):
    """Run the script in this process: its exit status and what it printed to standard error."""
    monkeypatch.setattr(sys, "argv", ["make_puppets.py", *map(str, arguments)])
    status, handler = 0, signal.getsignal(signal.SIGTERM)
    try:
        cli.run(make_puppets.main)
    except SystemExit as error:
        status = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, capsys.readouterr().err


def test_a_clip_is_what_was_rendered(tmp_path):
    folder = write_clip(tmp_path / "clip", "training", 4, FORM, people=2)
    clip = make_clip("training", 4, people=2)
    with np.load(folder / "truth.npz") as truth:
        arrays = dict(truth)
    recording = load_recording(folder / "poses" / "keypoints.npz")
    assert recording.drawn.num_frames == 3
    for i in range(3):
        image, truths = clip.render(i, 48, 64)
        np.testing.assert_array_equal(pixels(folder / "images" / f"frame_{i}.png"), image)
        mask = pixels(folder / "faces" / f"frame_{i}.png")
        np.testing.assert_array_equal(mask == 255, truths[0].face_mask | truths[1].face_mask)
        for name, values in arrays.items():
            np.testing.assert_array_equal(values[i], [getattr(truth, name) for truth in truths])
        mine = recording.drawn.frames == i
        redrawn = draw(recording.drawn.keypoints[mine], recording.drawn.scores[mine], 48, 64, short_side=144)
        pose = pixels(folder / "poses" / f"frame_{i}.png")
        assert (redrawn != pose).mean() < 0.01  # the file has 32 bits a number
        assert (pose > 0).mean() > 0.01
    assert arrays["keypoints"].shape == (3, 2, 133, 2)
    assert arrays["landmarks"].shape == (3, 2, 5, 2)


def test_a_clip_whose_masks_show_the_hands_too(tmp_path):
    folder = write_clip(tmp_path / "clip", "training", 4, FORM, mask_hands=True)
    for i in range(3):
        _, (truth,) = make_clip("training", 4).render(i, 48, 64)
        mask = pixels(folder / "faces" / f"frame_{i}.png")
        np.testing.assert_array_equal(mask, face_masks([truth], hands=True))
        assert (mask[truth.face_mask | truth.hand_mask] == 255).all()
        assert truth.hand_mask.any()
    with pytest.raises(InputError, match="made in another way"):
        write_clip(folder, "training", 4, FORM)


def test_a_clip_with_hidden_faces(tmp_path):
    folder = write_clip(tmp_path / "clip", "training", 3, FORM, roams=True, hidden="blur")
    clip = make_clip("training", 3, roams=True)
    for i in range(3):
        image, _ = clip.render(i, 48, 64)
        np.testing.assert_array_equal(pixels(folder / "images" / f"frame_{i}.png"), image)
        photo = pixels(folder / "photos" / f"frame_{i}.png")
        np.testing.assert_array_equal(photo, hide(clip, i, 48, 64, "blur"))
        assert (photo != image).any()
    with pytest.raises(InputError, match="made in another way"):
        write_clip(folder, "training", 3, FORM, roams=True)


def test_a_case_with_a_hidden_face(tmp_path):
    for index, way in enumerate(WAYS):
        folder = write_case(tmp_path / way, index, FORM, "hidden", roams=True)
        clip = make_clip("held_out", index, roams=True)
        moment = photo_moment(clip)
        np.testing.assert_array_equal(pixels(folder / "face.png"), clip.render(moment, 48, 64)[0])
        np.testing.assert_array_equal(pixels(folder / "reference.png"), hide(clip, moment, 48, 64, way))
        np.testing.assert_array_equal(pixels(folder / "truth" / "frame_1.png"), clip.render(1, 48, 64)[0])


def test_folders_are_whole_or_absent(tmp_path, monkeypatch):
    folder = tmp_path / "clip"
    monkeypatch.setattr(writing, "write_truth", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_clip(folder, "training", 0, FORM)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".clip.partial").mkdir()
    (tmp_path / ".clip.partial" / "junk").touch()
    write_clip(folder, "training", 0, FORM)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    assert not (folder / "junk").exists()

    before = (folder / "images" / "frame_0.png").stat().st_mtime_ns
    write_clip(folder, "training", 0, FORM)
    assert (folder / "images" / "frame_0.png").stat().st_mtime_ns == before  # not made again
    with pytest.raises(InputError, match="made in another way"):
        write_clip(folder, "training", 1, FORM)


@pytest.mark.slow
def test_cases_are_read_by_inference_and_evaluation(tmp_path):
    for name, kind in (("case-1", "same"), ("case-2", "cross")):
        write_case(tmp_path / "cases" / name, 0, FORM, kind)
        shutil.copytree(tmp_path / "cases" / name / "truth", tmp_path / "results" / name / "animated_images")
    same, cross = find_cases(tmp_path / "results", tmp_path / "cases")
    for case in (same, cross):
        assert case.photo.size == (48, 64)
        assert len(case) == len(case.driver) == len(case.poses) == 3
        assert case.keypoints.shape == (3, 134, 2)
        assert measure_case(case, [Pixels()]).means["psnr"] == np.inf
    frames = [np.asarray(same.truth[i]).astype(int) for i in range(3)]
    assert all(np.array_equal(np.asarray(same.driver[i]), frames[i]) for i in range(3))
    assert all(np.abs(np.asarray(same.photo) - frame).max() > 50 for frame in frames)  # another moment
    # Crossed: photo and truth share character and stage, the driver has neither, and both move alike.
    photo, driver = np.asarray(cross.photo).astype(int), np.asarray(cross.driver[0]).astype(int)
    truth = np.asarray(cross.truth[0]).astype(int)
    assert np.abs(photo[:2] - truth[:2]).max() == 0
    assert np.abs(photo[:2] - driver[:2]).max() > 0
    expected, _ = make_clip("held_out", 0).moved_like(make_clip("held_out", DRIVERS)).render(0, 48, 64)
    np.testing.assert_array_equal(truth, expected)
    np.testing.assert_array_equal(driver, make_clip("held_out", DRIVERS).render(0, 48, 64)[0])
    assert load_photo(tmp_path / "cases" / "case-1" / "reference.png").mode == "RGB"
    assert len(FrameFolder(tmp_path / "cases" / "case-1" / "faces")) == 3
    for index in range(30):  # whatever the period, the photo is none of the frames
        clip = make_clip("held_out", index)
        photo = clip.render(photo_moment(clip), 48, 64)[0]
        assert all((clip.render(i, 48, 64)[0] != photo).any() for i in range(clip.actors[0][1].period))
    with pytest.raises(ValueError, match="kind 'both' is unknown"):
        write_case(tmp_path / "x", 0, FORM, "both")


@pytest.mark.parametrize("name", ["case-1", "case-2", "case-3"])
def test_the_shipped_cases_are_made_anew_to_the_byte(tmp_path, name):
    """Every picture of inference/ comes from its seed: characters, motions and drawing are as they were."""
    shipped = Path(__file__).parents[1] / "inference" / name
    facts = json.loads((shipped / "puppets.json").read_text())
    index, kind, roams = (facts.pop(name) for name in ("index", "kind", "roams"))
    made = write_case(tmp_path / name, index, Format(**facts), kind, roams)
    paths = sorted(path.relative_to(shipped) for path in shipped.rglob("*.png"))
    assert len(paths) == 1 + 4 * 16 + (kind == "hidden")
    for path in paths:
        np.testing.assert_array_equal(pixels(made / path), pixels(shipped / path), err_msg=str(path))


def test_the_training_layout(monkeypatch, capsys, tmp_path):
    flags = ("training", tmp_path, "--rec", 2, "--vec", 1, "--frames", 2, "--rec_size", "32x32", "--vec_size", "32x48")
    assert run(monkeypatch, capsys, *flags)[0] == 0
    lists = {name: (tmp_path / f"video_{name}_path.txt").read_text().splitlines() for name in ("rec", "vec")}
    assert lists == {
        "rec": [str(tmp_path / "rec" / name) for name in ("00001", "00002")],
        "vec": [str(tmp_path / "vec" / "00003")],
    }
    for folder, size in (("rec/00001", (32, 32)), ("rec/00002", (32, 32)), ("vec/00003", (32, 48))):
        for part in ("images", "poses", "faces"):
            names = sorted(path.name for path in (tmp_path / folder / part).glob("*.png"))
            assert names == ["frame_0.png", "frame_1.png"]
            assert Image.open(tmp_path / folder / part / "frame_0.png").size == size
    facts = [json.loads((tmp_path / folder / "puppets.json").read_text()) for folder in ("rec/00001", "vec/00003")]
    assert [(fact["split"], fact["index"]) for fact in facts] == [("training", 0), ("training", 2)]
    hidden = ("training", tmp_path / "hidden", "--rec", 3, "--frames", 1, "--rec_size", "32x32", "--hidden", 2)
    assert run(monkeypatch, capsys, *hidden, "--mask_hands")[0] == 0
    first = json.loads((tmp_path / "hidden" / "rec" / "00001" / "puppets.json").read_text())
    assert [first.get("mask_hands"), facts[0].get("mask_hands")] == [True, None]
    photos = [(tmp_path / "hidden" / "rec" / f"{i:05d}" / "photos").is_dir() for i in (1, 2, 3)]
    assert photos == [True, False, True]
    # More of them later: what is there stays.
    kept = (tmp_path / "rec" / "00001" / "puppets.json").stat().st_mtime_ns
    assert (
        run(
            monkeypatch, capsys, "training", tmp_path, "--rec", 4, "--frames", 2, "--rec_size", "32x32", "--workers", 2
        )[0]
        == 0
    )
    assert len((tmp_path / "video_rec_path.txt").read_text().splitlines()) == 4
    assert (tmp_path / "rec" / "00001" / "puppets.json").stat().st_mtime_ns == kept


def test_clips_and_videos(monkeypatch, capsys, tmp_path):
    arguments = ("clips", tmp_path, "--count", 1, "--start", 2, "--frames", 4, "--size", "48x64", "--motion", "turn")
    assert run(monkeypatch, capsys, *arguments, "--mp4", "--split", "held_out")[0] == 0
    folder = tmp_path / "clip-3"
    with av.open(str(folder / "video.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 4
    expected, _ = make_clip("held_out", 2, "turn").render(1, 48, 64)
    assert np.abs(frames[1] - expected).mean() < 8
    assert run(monkeypatch, capsys, "cases", tmp_path, "--frames", 2, "--size", "32x32", "--kind", "cross")[0] == 0
    assert (tmp_path / "case-1" / "reference.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["clips", "OUT", "--size", "big"], "--size big: not understood"),
        (["clips", "OUT", "--size", "8x64"], "16 to 4096"),
        (["clips", "OUT", "--size", "33x64"], "even numbers"),
        (["clips", "OUT", "--frames", "0"], "--frames 0 is below 1"),
        (["clips", "OUT", "--count", "-1"], "--count -1 is below 1"),
        (["clips", "OUT", "--canvas", "3"], "--canvas 3 is below 16"),
        (["clips", "OUT", "--cuont", "3"], "did you mean --count?"),
        (["training", "OUT"], "nothing to make"),
        (["cases", "OUT", "--start", "9999", "--count", "2"], "those from 10000 on are drivers"),
        (["clips", __file__], "cannot be written to"),
    ],
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, tmp_path, arguments, reason):
    status, message = run(monkeypatch, capsys, *(tmp_path / "out" if a == "OUT" else a for a in arguments))
    assert status == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert reason in message
    assert not (tmp_path / "out").exists()


def test_another_clip_in_the_way(monkeypatch, capsys, tmp_path):
    arguments = ("clips", tmp_path, "--frames", 1, "--size")
    assert run(monkeypatch, capsys, *arguments, "32x32")[0] == 0
    status, message = run(monkeypatch, capsys, *arguments, "48x48")
    assert status == 2
    assert "made in another way; remove it" in message
