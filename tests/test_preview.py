"""The preview of an extraction: its skeletons look like those in the files."""

import numpy as np
import pytest
from PIL import Image

from animation.media.panels import panel, panel_size
from animation.skeletons.preview import _overlay, skeleton_panels
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.recording import Drawn
from puppets.clips import make_clip, people


def drawn_puppet(size):
    """A standing character as it would be drawn, at some size."""
    _, truths = make_clip("held_out", 3).render(0, *size)
    found = people(truths).openpose()
    return Drawn(np.zeros(len(found), int), found.keypoints / size, found.scores, size, 1)


def light(picture):
    """The mean of the brightest channel over the picture."""
    return picture.max(axis=-1).mean()


@pytest.mark.parametrize(("size", "canvas"), [((128, 128), 384), ((576, 1024), None)])
def test_skeletons_are_as_bright_as_in_the_files(size, canvas):
    drawn = drawn_puppet(size)
    (shown,) = skeleton_panels(drawn, 0.3, canvas)
    assert shown.shape == (*panel_size(*size)[::-1], 3)
    file = draw(drawn.keypoints, drawn.scores, *size, 0.3, canvas or SHORT_SIDE)
    if canvas is not None:
        assert light(shown) == pytest.approx(light(file), rel=0.1)
        thin = draw(drawn.keypoints, drawn.scores, *panel_size(*size), 0.3)
        assert light(thin) < 0.5 * light(file)  # the control: on DWPose's own canvas
    else:  # in a panel of half the size, strokes of as many pixels
        assert light(shown) == pytest.approx(2 * light(file), rel=0.2)


def test_a_skeleton_keeps_its_colours_over_a_picture():
    drawn = drawn_puppet((128, 128))
    (skeleton,) = skeleton_panels(drawn, 0.3, 384)
    picture = np.full((128, 128, 3), 200, np.uint8)
    shown = _overlay(picture, skeleton)
    lit = skeleton.any(axis=-1)
    np.testing.assert_array_equal(shown[lit], skeleton[lit])
    assert (shown[~lit] == 100).all()
    np.testing.assert_array_equal(_overlay(None, skeleton), skeleton)
    assert panel(Image.fromarray(picture)).shape == skeleton.shape
