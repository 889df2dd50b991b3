"""Whom of a photo's people a clip shows, on the shipped networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animation.clip.flow import Models, make_clip
from animation.clip.settings import PHOTO_FILE, ClipSettings
from DWPose.recording import load_recording
from puppets.characters import make_character
from puppets.motions import make_motion
from puppets.rendering import Place, Stage, render
from tests.test_shipped_cases import small_set

ROOT = Path(__file__).parents[1]
PEOPLE = [(0.2, 0.8), (0.8, 0.95)]  # where and how large: the smaller one on the left


@pytest.mark.slow
@pytest.mark.parametrize(("number", "width", "alignment"), [(1, 416, "affine"), (0, 256, "affine"), (0, 256, "none")])
def test_face_and_skeleton_are_one_persons(number, width, alignment, tmp_path):
    """In a wide photo the middle shows neither face, in a square one both are seen."""
    actors = [
        (make_character("held_out", n), make_motion("held_out", 4)(0), Place(x, 0.95, size))
        for n, (x, size) in enumerate(PEOPLE)
    ]
    photo, truths = render(actors, Stage((200, 210, 220), (120, 130, 110), 0.85), width, 256)
    Image.fromarray(photo).save(tmp_path / "two.png")
    settings = ClipSettings(
        photo=str(tmp_path / "two.png"),
        video=str(ROOT / "inference" / "driver.mp4"),
        output=str(tmp_path / "out"),
        face=number,
        alignment=alignment,
        max_seconds=0.2,
        num_inference_steps=1,
        face_optimization=True,
        num_optimization_iter=1,
        end_refine_step=0,
    ).resolve(small_set())
    inputs = settings.read_inputs()
    make_clip(settings, inputs, Models())

    left, top, right, bottom = truths[number].face_box
    centre = (left + right) / 2
    assert (inputs.framing.source[0] <= left and right <= inputs.framing.source[2]) == (width == 256)  # else a control
    framing = inputs.framing.keeping((left, top, right, bottom))
    assert framing.source[0] <= centre - (right - left) and centre + (right - left) <= framing.source[2]
    canvas = np.asarray(framing.apply(Image.fromarray(photo)), float)
    assert np.abs(np.asarray(Image.open(settings.intermediate / PHOTO_FILE)) - canvas).mean() < 8

    drawn = load_recording(settings.intermediate / "skeletons" / "keypoints.npz").drawn
    if alignment != "none":
        np.testing.assert_allclose(drawn.keypoints[0, 0], framing.face, atol=0.1)
    face = np.asarray(settings.inference_settings(framing, 12, face_boxes=True).read_inputs().photo_face, float)
    skins = [photo[truth.face_mask].mean(axis=0) for truth in truths]
    middle = face[len(face) // 4 : -len(face) // 4, face.shape[1] // 4 : -face.shape[1] // 4].mean(axis=(0, 1))
    away = [np.linalg.norm(middle - skin) for skin in skins]
    assert away[number] < 0.5 * away[1 - number]
