"""Whom of a photo's people a clip shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animation.clip.flow import Models, make_clip
from animation.clip.settings import PHOTO_FILE, ClipSettings
from animation.weights.layout import small
from DWPose.recording import load_recording
from puppets.characters import make_character
from puppets.motions import make_motion
from puppets.rendering import Place, Stage, render

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_of_two_people_the_face_and_the_skeleton_are_one_persons(number, tmp_path):
    """On the shipped networks: the smaller one on the left, the larger one on the right, in a photo that is cut."""
    actors = [
        (make_character("held_out", n), make_motion("held_out", 4)(0), Place(x, 0.95, size))
        for n, (x, size) in enumerate([(0.17, 0.85), (0.83, 0.95)])
    ]
    pixels, truths = render(actors, Stage((200, 210, 220), (120, 130, 110), 0.85), 416, 256)
    Image.fromarray(pixels).save(tmp_path / "two.png")
    settings = ClipSettings(
        photo=str(tmp_path / "two.png"),
        video=str(ROOT / "inference" / "driver.mp4"),
        output=str(tmp_path / "out"),
        face=number,
        anchor="photo",
        max_seconds=0.2,
        num_inference_steps=1,
        face_optimization=False,
    ).resolve(small(ROOT))
    inputs = settings.read_inputs()
    make_clip(settings, inputs, Models())
    drawn = load_recording(settings.intermediate / "skeletons" / "keypoints.npz").drawn
    left, top, right, bottom = truths[number].face_box
    framing = inputs.framing.keeping((left, top, right, bottom))
    assert framing.source[0] <= left - (right - left) / 2 and right + (right - left) / 2 <= framing.source[2]
    assert not (inputs.framing.source[0] <= left and right <= inputs.framing.source[2])  # a control: it was cut
    for frame in (0, 1):  # the photo's own skeleton, and the driver's, fitted to it
        np.testing.assert_allclose(drawn.keypoints[frame, 0], framing.face, atol=0.1)
    seen = np.asarray(framing.apply(Image.fromarray(pixels)))
    assert np.abs(np.asarray(Image.open(settings.intermediate / PHOTO_FILE)).astype(int) - seen).mean() < 8
