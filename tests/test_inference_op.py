"""The script with face optimisation as a user runs it, and where it finds the faces."""

import json
import re
import shutil
import signal
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from animation import cli
from animation.commands import inference_basic, inference_op
from animation.face.settings import CROP_MARGIN, FaceOptimizationSettings
from animation.files import describe_file
from animation.flags import Parser, add_flags, parse
from animation.settings import InferenceSettings
from animation.weights.layout import fill_in
from animation.weights.loading import load_arcface
from DWPose.keypoints import FACE, NUM_KEYPOINTS, NUM_WHOLEBODY, People
from DWPose.recording import Drawn, Recording
from tests.conftest import checkpoint_flags
from tests.face_models import write_face_models
from tests.synthetic import HEAD
from tests.test_onnx import export

ROOT = Path(__file__).parents[1]
RELEASED_FLAGS = """
    validation_image_mask validation_control_mask_folder face_embedding_extractor_weight_path num_optimization_iter
    start_refine_step end_refine_step max_frame_num batch_frames
"""
SIZE = (64, 128)  # of the case, width and height


@pytest.fixture
def flags(checkpoint, case, tmp_path):
    """A small run: two steps of five frames, the face being refined in the second."""
    return {
        "--validation_image": case / "reference.png",
        "--validation_control_folder": case / "poses",
        "--validation_image_mask": case / "reference_mask.png",
        "--validation_control_mask_folder": case / "faces",
        "--face_embedding_extractor_weight_path": checkpoint / "Animation" / "glintr100_torch.pth",
        "--face_embedding": case / "face_embedding.npy",
        "--face_models": tmp_path / "antelopev2",
        "--output_dir": tmp_path / "out",
        "--height": 64,
        "--width": 64,
        "--num_inference_steps": 2,
        "--num_optimization_iter": 1,
        "--start_refine_step": 1,
        "--max_frames": 5,
        "--tile_size": 4,
        "--frames_overlap": 1,
        "--device": "cpu",
        "--no_gif": None,
        **dict(zip(*[iter(checkpoint_flags(checkpoint))] * 2, strict=True)),
    }


def arguments(flags):
    return [str(part) for pair in flags.items() for part in pair if part is not None]


def run(monkeypatch, capsys, flags, script=inference_op):
    """Run the script in this process: its exit status and what it printed to standard error."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments(flags)])
    status = 0
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run(script.main)
    except SystemExit as error:
        status = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, capsys.readouterr().err


def video(folder):
    paths = sorted((folder / "animated_images").glob("frame_*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)


def facts(flags):
    return json.loads((flags["--output_dir"] / "run.json").read_text())


def read(flags):
    return fill_in(parse(FaceOptimizationSettings, None, arguments(flags))).read_inputs()


def write_recording(path, photo_path, num_frames=5, without=(2,)):
    """Key points of a photo and of frames, whose faces fill a square of a tenth to three tenths of the picture."""
    t = np.linspace(0, 1, 68)
    circle = np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=-1) / 2 + 0.5
    drawn = np.zeros((num_frames, NUM_KEYPOINTS, 2), np.float32)
    drawn[:, FACE] = 0.1 + 0.2 * circle
    scores = np.ones((num_frames, NUM_KEYPOINTS), np.float32)
    scores[list(without), FACE] = 0
    photo = np.zeros((1, NUM_WHOLEBODY, 2))
    photo[0, 23:91] = (0.5 + 0.25 * circle) * SIZE
    photo[0, :17] = np.random.default_rng(0).uniform(0, 1, (17, 2)) * SIZE
    people = People(np.array([[0.0, 0.0, *SIZE]]), photo, np.ones((1, NUM_WHOLEBODY), np.float32))
    Recording(
        people,
        SIZE,
        [people] * num_frames,
        SIZE,
        25.0,
        {"photo": describe_file(photo_path)},
        Drawn(np.arange(num_frames), drawn, scores, SIZE, num_frames),
    ).save(path)
    return path


@pytest.mark.slow
def test_a_run_refines_the_faces_and_says_how_much(monkeypatch, capsys, flags, tmp_path):
    status, _ = run(monkeypatch, capsys, flags)
    assert status == 0
    found = facts(flags)
    (step,) = found["face_optimization"]
    assert step["step"] == 1
    assert -1 <= step["cosine_before"] < step["cosine_after"] <= 1
    assert set(found["settings"]) == {field.name for field in fields(FaceOptimizationSettings)}
    used = {Path(name).name for name in found["files"]}
    assert {"glintr100_torch.pth", "reference_mask.png", "frame_4.png"} <= used
    assert any("faces" in name for name in found["files"])
    refined = video(flags["--output_dir"])
    assert len(refined) == 5
    # The same without it, by the other script: the same seed, other pixels, and less alike.
    basic = {key: value for key, value in flags.items() if key.lstrip("-") in _known(InferenceSettings)}
    status, _ = run(monkeypatch, capsys, {**basic, "--output_dir": tmp_path / "basic"}, inference_basic)
    assert status == 0
    difference = np.abs(video(tmp_path / "basic") - refined)
    assert difference.max() > 1
    # Beyond the refined steps, the two scripts are one.
    again = {**flags, "--num_inference_steps": 3, "--start_refine_step": 2, "--end_refine_step": 2}
    run(monkeypatch, capsys, again)
    assert [step["step"] for step in facts(flags)["face_optimization"]] == [2]


def _known(settings):
    return {field.name for field in fields(settings)}


def test_cropped_decoding_and_masks_that_are_not_there(monkeypatch, capsys, flags, case, tmp_path, caplog):
    """Boxes from the skeletons' key points, beside them; ArcFace out of an ONNX file."""
    poses = tmp_path / "poses"
    shutil.copytree(case / "poses", poses)
    for path in poses.glob("frame_[5-7].png"):
        path.unlink()
    write_recording(poses / "keypoints.npz", flags["--validation_image"])
    arcface = load_arcface(flags["--face_embedding_extractor_weight_path"])
    for name in ("--validation_image_mask", "--validation_control_mask_folder"):
        del flags[name]
    flags |= {
        "--validation_control_folder": poses,
        "--hjb_crop": 1,
        "--face_embedding_extractor_weight_path": export(arcface, tmp_path / "recogniser.onnx"),
    }
    status, _ = run(monkeypatch, capsys, flags)
    assert status == 0
    assert "1 of 5 frames have no face (their skeletons show too few of a face's points" in caplog.text
    assert "optimisation: 2\n" in caplog.text
    (step,) = facts(flags)["face_optimization"]
    assert step["cosine_after"] > step["cosine_before"]
    assert {"keypoints.npz", "recogniser.onnx"} <= {Path(name).name for name in facts(flags)["files"]}


def test_with_antelopev2_and_key_points_alone(monkeypatch, capsys, flags, tmp_path, caplog):
    """No mask, no stored embedding, no torch file: one ONNX recogniser embeds the photo and guides the frames."""
    models = write_face_models(tmp_path / "antelopev2", [(160, 160, 90)])
    export(load_arcface(flags["--face_embedding_extractor_weight_path"]), models / "glintr100.onnx")
    points = write_recording(tmp_path / "points.npz", flags["--validation_control_folder"] / "frame_0.png")
    for name in (
        "--validation_image_mask",
        "--validation_control_mask_folder",
        "--face_embedding",
        "--face_embedding_extractor_weight_path",
    ):
        del flags[name]
    monkeypatch.chdir(tmp_path)  # where there are no checkpoints
    status, message = run(monkeypatch, capsys, {**flags, "--keypoints": points})
    assert status == 0, message
    found = facts(flags)
    assert found["face_found"]
    assert found["face_optimization"][0]["cosine_after"] > found["face_optimization"][0]["cosine_before"]
    assert {"glintr100.onnx", "points.npz"} <= {Path(name).name for name in found["files"]}
    assert "ArcFace's weights come from" in caplog.text
    assert "the photo's face was found by the face detector" in caplog.text


def test_boxes_are_scaled_to_the_output(flags):
    """Masks of 64×128 pixels, an output of 64×64."""
    inputs = read(flags)
    box = inputs.face_boxes[0]
    left, top, right, bottom = (share * 64 for share in HEAD)
    assert len(inputs.face_boxes) == 5
    assert np.abs(np.array(box) - (top, bottom, left, right)).max() <= 1
    assert inputs.photo_face.size == (
        int(HEAD[2] * 64) - int(HEAD[0] * 64) + 1,
        int(HEAD[3] * 128) - int(HEAD[1] * 128) + 1,
    )


def test_boxes_of_the_photo_and_the_frames_from_key_points(flags, tmp_path, caplog):
    path = write_recording(tmp_path / "points.npz", flags["--validation_image"])
    for name in ("--validation_image_mask", "--validation_control_mask_folder"):
        del flags[name]
    inputs = read({**flags, "--keypoints": path})
    present = [box for box in inputs.face_boxes if box]
    assert [i for i, box in enumerate(inputs.face_boxes) if box is None] == [2]
    for box in present:  # a tenth to three tenths of 64 pixels, grown by a twentieth, and the forehead
        assert np.abs(np.array(box) - (6.4 - 0.3 * 12.8, 19.2 + 0.64, 6.4 - 0.64, 19.2 + 0.64)).max() <= 1
    assert abs(inputs.photo_face.width - 1.1 * 0.25 * 64) <= 2
    assert abs(inputs.photo_face.height - 1.35 * 0.25 * 128) <= 2
    # Of another photo the points say nothing: insightface looks.
    other = tmp_path / "other.png"
    Image.open(flags["--validation_image"]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other)
    write_face_models(tmp_path / "antelopev2", [(160, 320, 90)])
    inputs = read({**flags, "--keypoints": path, "--validation_image": other})
    assert "the face, which the frames are drawn towards, was found by the face detector" in caplog.text
    assert abs(inputs.photo_face.width - 2 * 90 * 128 / 640) <= 2


def test_frames_are_paired_by_their_numbers(flags, case, tmp_path, caplog):
    """Poses 0, 3, 5 and 7, of which three are taken, with masks and with key points of eight frames."""
    poses, masks = tmp_path / "poses", tmp_path / "masks"
    poses.mkdir()
    masks.mkdir()
    for number in (0, 3, 5, 7):
        shutil.copy(case / "poses" / f"frame_{number}.png", poses)
    for number in range(8):
        pixels = np.zeros((128, 64), np.uint8)
        pixels[8 * number : 8 * number + 16, 10:30] = 255
        Image.fromarray(pixels).save(masks / f"frame_{number}.png")
    changed = flags | {
        "--validation_control_folder": poses,
        "--validation_control_mask_folder": masks,
        "--max_frames": 3,
        "--height": 128,
    }
    assert [box.y_min for box in read(changed).face_boxes] == [0, 24, 40]
    (masks / "frame_5.png").rename(masks / "frame_9.png")
    assert [box.y_min for box in read(changed).face_boxes] == [0, 8, 16]
    assert "numbered otherwise" in caplog.text


def test_another_face_of_the_photo_is_not_taken_from_key_points(flags, tmp_path, caplog):
    write_recording(flags["--validation_control_folder"] / "keypoints.npz", flags["--validation_image"], 8)
    write_face_models(flags["--face_models"], [(80, 200, 40), (240, 200, 30)])
    try:
        del flags["--validation_image_mask"]
        own, second = read(flags), read(flags | {"--face": 1})
    finally:
        (flags["--validation_control_folder"] / "keypoints.npz").unlink()
    assert "is " + str(flags["--validation_control_folder"] / "keypoints.npz") in caplog.text
    assert own.photo_face.size != second.photo_face.size
    assert "number 1 from the left" in caplog.text


def test_the_extractor_falls_back_on_antelopev2(flags, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    del flags["--face_embedding_extractor_weight_path"]
    models = write_face_models(tmp_path / "antelopev2")
    assert read(flags).extractor_path == models / "glintr100.onnx"
    assert "ArcFace's weights come from" in caplog.text
    given = tmp_path / "checkpoints" / "Animation" / "glintr100_torch.safetensors"
    given.parent.mkdir(parents=True)
    given.touch()
    assert read(flags).extractor_path.resolve() == given


def test_the_photos_crop_reaches_arcface_as_rgb(checkpoint):
    from animation.face_optimization import photo_face_pixels

    face = Image.new("RGB", (30, 50), (255, 0, 51))
    pixels = photo_face_pixels(face)
    assert pixels.shape == (1, 3, 112, 112)
    torch.testing.assert_close(pixels[0, :, 5, 7], torch.tensor([1.0, -1.0, -0.6]))


def test_every_released_flag_is_known():
    parser = Parser(inference_op.__doc__)
    add_flags(parser, FaceOptimizationSettings)
    known = {action.dest for action in parser._actions}
    assert set(RELEASED_FLAGS.split()) <= known
    assert _known(InferenceSettings) < known
    assert known - {"help"} == _known(FaceOptimizationSettings) | set(FaceOptimizationSettings.RETIRED)
    text = re.sub(r"\s+", " ", parser.format_help())
    for default in ("(default: 3)", "(default: 0)", "(default: 20)", "left out, glintr100_torch.pth of the checkpoint"):
        assert default in text
    required = ["--validation_image=a", "--validation_control_folder=b", "--output_dir=c"]
    assert parse(FaceOptimizationSettings, None, [*required, "--hjb_crop"]).hjb_crop == CROP_MARGIN
    assert parse(FaceOptimizationSettings, None, required).hjb_crop is None


def black(folder, count=5, size=SIZE, value=0):
    folder.mkdir()
    for i in range(count):
        Image.new("L", size, value).save(folder / f"frame_{i}.png")
    return folder


def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, flags, tmp_path):
    empty, full = black(tmp_path / "empty"), black(tmp_path / "full", value=255)
    few = black(tmp_path / "few", 3)
    write_face_models(tmp_path / "antelopev2", [])
    bad = [
        ({"--num_optimization_iter": 0}, "--num_optimization_iter 0 is below 1"),
        ({"--start_refine_step": 2}, "--start_refine_step 2 is after the last of 2 steps"),
        ({"--end_refine_step": 0}, "--end_refine_step 0 is before --start_refine_step 1"),
        ({"--hjb_crop": -1}, "--hjb_crop -1 is below 0"),
        ({"--validation_image_mask": "nowhere.png"}, "nowhere.png: no such photo"),
        ({"--validation_image_mask": empty / "frame_0.png"}, "the mask shows no face: it is black"),
        ({"--validation_image_mask": full / "frame_0.png"}, "the mask shows no face: it is black"),
        ({"--validation_control_mask_folder": "nowhere"}, "nowhere: no such folder"),
        ({"--validation_control_mask_folder": empty}, "none of the 5 frames has a face (a mask is black"),
        ({"--validation_control_mask_folder": full}, "none of the 5 frames has a face"),
        ({"--validation_control_mask_folder": few}, "faces of 3 frames, but there are 5 poses"),
        ({"--validation_control_mask_folder": None}, "where the faces are is unknown"),
        ({"--validation_control_mask_folder": None, "--keypoints": "no.npz"}, "no.npz: no such file"),
        ({"--validation_image_mask": None}, "no face was found in it"),
        ({"--validation_image_mask": None, "--face_models": "nowhere"}, "give --validation_image_mask (nowhere: "),
        ({"--face_embedding_extractor_weight_path": "nowhere.pth"}, "nowhere.pth: no such file; give ArcFace's"),
        ({"--face_embedding_extractor_weight_path": flags["--unet_model_name_or_path"]}, "not the weights of ArcFace"),
    ]
    for changes, reason in bad:
        changed = {key: value for key, value in {**flags, **changes}.items() if value is not None or key == "--no_gif"}
        status, message = run(monkeypatch, capsys, changed)
        errors = [line for line in message.splitlines() if line.startswith("error: ")]
        assert (status, len(errors)) == (2, 1), (changes, message)
        assert reason in errors[0]
        assert message.strip().endswith(errors[0])
        assert "Traceback" not in message
        assert not flags["--output_dir"].exists()


def test_one_empty_mask_is_left_out(flags, case, tmp_path, caplog):
    masks = tmp_path / "masks"
    shutil.copytree(case / "faces", masks)
    Image.new("L", SIZE, 0).save(masks / "frame_1.png")
    Image.new("L", SIZE, 255).save(masks / "frame_3.png")
    boxes = read({**flags, "--validation_control_mask_folder": masks}).face_boxes
    assert [box is None for box in boxes] == [False, True, False, True, False]
    assert "2 of 5 frames have no face" in caplog.text
    assert "1, 3" in caplog.text


def test_out_of_memory_names_the_crop(monkeypatch, capsys, flags):
    from animation import run as inference

    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference.AnimationPipeline, "denoise", fail)
    status, message = run(monkeypatch, capsys, flags)
    assert status == 1
    assert "these would help: --hjb_crop, --cfg_batch 1" in message
