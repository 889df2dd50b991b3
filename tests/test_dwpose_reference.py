"""Skeletons against recorded numbers of the original."""

import cv2
import numpy as np
import pytest
from PIL import Image

from animation.media.images import FrameFolder
from DWPose.alignment import fit_axes
from DWPose.arrangement import arrange, photo_person
from DWPose.drawing import draw
from DWPose.recording import Recording
from DWPose.wholebody import Wholebody

CASES = ("same_aspect", "cross_aspect")
FOLDERS = {"affine_legacy": "poses", "affine": "poses_aspect_corrected", "none": "poses_unaligned"}


@pytest.fixture(scope="module", params=CASES)
def recorded(request, reference):
    """The folder of a case, its networks, and the raw key points of its photo and frames."""
    folder = reference / "dwpose" / request.param
    models = folder / "checkpoints" / "DWPose"
    wholebody = Wholebody(models / "yolox_l.onnx", models / "dw-ll_ucoco_384.onnx", "cpu")
    photo = np.asarray(Image.open(folder / "reference.png").convert("RGB"))
    frames = [np.asarray(frame) for frame in FrameFolder(folder / "target_images")]
    recording = Recording(
        wholebody.estimate(photo),
        photo.shape[1::-1],
        [wholebody.estimate(frame) for frame in frames],
        frames[0].shape[1::-1],
        30,
    )
    return folder, recording


def test_intermediates(recorded):
    folder, recording = recorded
    expected = np.load(folder / "expected" / "intermediates.npz")
    for name, people in (("reference", recording.photo), ("frame_0", recording.video[0])):
        ordered = people.openpose()
        found = {
            "boxes": people.boxes,
            "keypoints133": people.keypoints,
            "scores133": people.scores,
            "keypoints134": ordered.keypoints,
            "scores134": ordered.scores,
        }
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[f"{name}_{key}"], atol=1e-4, err_msg=key)


def test_fit(recorded):
    folder, recording = recorded
    expected = np.load(folder / "expected" / "fit.npz")
    photo = photo_person(recording)
    keypoints = np.concatenate([people.openpose().keypoints for people in recording.video]) / recording.video_size
    aspect_ratio = np.divide(*recording.video_size) / np.divide(*recording.photo_size)
    fit = fit_axes(photo.keypoints[0], photo.scores[0], keypoints, aspect_ratio)
    found = [*fit.scale, *fit.offset]
    keys = ("ax_aspect_corrected", "ay", "bx_aspect_corrected", "by")
    np.testing.assert_allclose(found, [expected[key] for key in keys], atol=1e-4)
    np.testing.assert_array_equal(fit.keypoint_ids, expected["keypoint_ids"])


@pytest.mark.parametrize("person", ["track", "all"])
@pytest.mark.parametrize("alignment", FOLDERS)
def test_pixels(recorded, alignment, person):
    folder, recording = recorded
    arrangement = arrange(recording, alignment, person)
    expected = FrameFolder(folder / "expected" / FOLDERS[alignment])
    for number, picture in enumerate(expected):
        share = _differing(arrangement.drawn, number, np.asarray(picture))
        assert share == 0 if cv2.__version__.startswith("5.0.0") else share <= 1e-3, f"frame {number}"


def test_control_the_formulas_differ_across_aspect_ratios(recorded):
    folder, recording = recorded
    picture = np.asarray(FrameFolder(folder / "expected" / "poses")[0])
    share = _differing(arrange(recording, "affine").drawn, 0, picture)
    assert share > 1e-3 if folder.name == "cross_aspect" else share == 0


def _differing(drawn, number, picture):
    """Share of the pixels that are not the same."""
    people = drawn.frames == number
    skeleton = draw(drawn.keypoints[people], drawn.scores[people], *drawn.size)
    assert skeleton.shape == picture.shape
    return (skeleton != picture).any(axis=-1).mean()
