import numpy as np
import pytest

from benchmarks import naive_skeleton
from DWPose import drawing
from DWPose.drawing import canvas_size, draw


def people(seed, count=1, low=-0.2, high=1.2):
    """Random key points, some outside of the picture, and scores, some above 1."""
    generator = np.random.default_rng(seed)
    return generator.uniform(low, high, (count, 134, 2)), generator.uniform(0, 1.15, (count, 134))


@pytest.mark.parametrize(("width", "height"), [(576, 1024), (512, 512), (97, 64), (2300, 2200)])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_drawing_on_the_full_canvas(width, height, count):
    found = people(width + count, count)
    np.testing.assert_array_equal(draw(*found, width, height), naive_skeleton.draw(*found, width, height))


def test_a_canvas_is_clean_for_the_next_picture():
    draw(*people(1), 128, 192)
    found = people(2, low=0.4, high=0.6)
    np.testing.assert_array_equal(draw(*found, 128, 192), naive_skeleton.draw(*found, 128, 192))


def test_nobody_is_black():
    assert not draw(np.empty((0, 134, 2)), np.empty((0, 134)), 64, 128).any()


def test_absurd_places_are_not_drawn():
    keypoints, scores = np.full((1, 134, 2), 1e30), np.ones((1, 134))
    assert not draw(keypoints, scores, 64, 64).any()


def test_limbs_need_both_ends_and_points_more_than_the_threshold():
    keypoints, scores = np.full((1, 134, 2), -1.0), np.zeros((1, 134))
    keypoints[0, [2, 3]] = (0.2, 0.5), (0.8, 0.5)
    scores[0, [2, 3]] = 0.3
    canvas = draw(keypoints, scores, 2160, 2160)
    assert canvas[1080, 1080].any()
    assert not canvas[1080 + 4, int(0.2 * 2160)].any()  # at exactly the threshold points are not drawn
    assert not draw(keypoints, scores, 2160, 2160, confidence=0.31).any()
    scores[0, 3] = 0.29
    assert not draw(keypoints, scores, 2160, 2160).any()


def test_limbs_are_dimmed_and_points_are_not():
    keypoints, scores = np.full((1, 134, 2), -1.0), np.zeros((1, 134))
    keypoints[0, [2, 3]] = (0.2, 0.5), (0.8, 0.5)
    scores[0, [2, 3]] = 1
    canvas = draw(keypoints, scores, 2160, 2160)
    assert canvas[1080, 1080].tolist() == [int(255 * 0.6), int(170 * 0.6), 0]
    assert canvas[1080, int(0.2 * 2160)].tolist() == [255, 170, 0]


def test_canvas():
    assert canvas_size(576, 1024) == (2160, 3840)
    assert canvas_size(1024, 576) == (3840, 2160)
    assert canvas_size(333, 500) == (2160, int(500 * 2160 / 333))
    assert {min(canvas_size(short, 2 * short)) for short in range(1, 3000)} == {2160}


def test_control_brightness_matters(monkeypatch):
    found = people(3)
    monkeypatch.setattr(drawing, "LIMB_BRIGHTNESS", 0.7)
    assert (draw(*found, 64, 64) != naive_skeleton.draw(*found, 64, 64)).any()
