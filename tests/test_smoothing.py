import numpy as np
import pytest

from DWPose.smoothing import body_height, fill_missing, jitter, one_euro

FPS = 30.0


def motion(num_frames=90, noise=0.0, seed=0):
    """A person 200 pixels tall who sways a body height a second, and trembles."""
    generator = np.random.default_rng(seed)
    still = generator.uniform(0, 200, (134, 2))
    still[[0, 10]] = (0, 0), (0, 200)
    sway = 60 * np.sin(np.arange(num_frames) / FPS * 2 * np.pi * 0.5)
    keypoints = still + np.stack([sway, np.zeros(num_frames)], axis=1)[:, None]
    return keypoints, keypoints + generator.normal(0, noise, keypoints.shape)


def test_one_euro_takes_trembling_and_leaves_motion():
    clean, noisy = motion(noise=2)
    scores = np.ones(clean.shape[:2])
    smooth = one_euro(noisy, scores, FPS)
    assert np.abs(smooth - clean).mean() < 0.75 * np.abs(noisy - clean).mean()
    assert jitter(smooth, scores) < 0.5 * jitter(noisy, scores)
    assert np.abs(one_euro(clean, scores, FPS) - clean).max() < 0.03 * 200


def test_one_euro_does_not_lag():
    clean, _ = motion()
    smooth = one_euro(clean, np.ones(clean.shape[:2]), FPS)
    centred = [signal[5:-5, 0, 0] - signal[5:-5, 0, 0].mean() for signal in (clean, smooth)]
    shifts = range(-4, 5)
    match = [np.dot(centred[0][5:-5], np.roll(centred[1], shift)[5:-5]) for shift in shifts]
    assert shifts[int(np.argmax(match))] == 0


def test_one_euro_keeps_a_constant_and_what_is_hidden():
    keypoints = np.ones((5, 134, 2)) * np.arange(134)[:, None]
    np.testing.assert_allclose(one_euro(keypoints, np.ones((5, 134)), FPS), keypoints)
    _, noisy = motion(noise=2)
    scores = np.ones(noisy.shape[:2])
    scores[40:50, 3] = 0
    smooth = one_euro(noisy, scores, FPS)
    np.testing.assert_array_equal(smooth[40:50, 3], noisy[40:50, 3])
    assert (smooth[:40, 3] != noisy[:40, 3]).any()


def test_one_euro_does_not_depend_on_the_picture_s_size():
    _, noisy = motion(noise=2)
    scores = np.ones(noisy.shape[:2])
    np.testing.assert_allclose(one_euro(noisy * 4, scores, FPS), one_euro(noisy, scores, FPS) * 4)


def test_jitter_of_a_straight_line_is_nought_and_of_an_alternation_known():
    keypoints = np.zeros((9, 134, 2))
    keypoints[:, 1, 1] = 100  # the body height
    scores = np.ones((9, 134))
    assert jitter(keypoints + np.arange(9)[:, None, None], scores) == 0
    keypoints[::2, :, 0] += 1
    assert jitter(keypoints, scores) == pytest.approx(2 / 100)
    assert jitter(keypoints, np.zeros((9, 134))) == 0
    assert body_height(keypoints, scores > 0) == 100


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("interpolate", [2, 2, 3, 4, 5, 5]), ("hold", [2, 2, 2, 2, 5, 5]), ("blank", [0, 2, 0, 0, 5, 0])],
)
def test_missing_frames(missing, expected):
    present = np.array([False, True, False, False, True, False])
    values = np.where(present, [9, 2, 9, 9, 5, 9], 9.0)
    keypoints, scores = values[:, None, None] * np.ones((6, 134, 2)), values[:, None] * np.ones((6, 134))
    filled, filled_scores = fill_missing(keypoints, scores, present, missing)
    np.testing.assert_allclose(filled_scores[:, 0], expected)
    if missing != "blank":
        np.testing.assert_allclose(filled[:, 0, 0], expected)
