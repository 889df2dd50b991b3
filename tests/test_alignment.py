import numpy as np
import pytest

from animation.errors import InputError
from DWPose.alignment import FITTED, distance_to_photo, fit_axes, leaves_photo
from DWPose.limbs import BONES, FOLLOWERS, fit_limbs

SIZE, PHOTO_SIZE = (640, 360), (512, 768)


def test_fit_recovers_a_known_scale_and_offset():
    driver = np.random.default_rng(0).uniform(0, 1, (7, 134, 2))
    aspect_ratio = 1.5
    scale = np.array([0.6 * aspect_ratio, 0.6])
    photo = driver.mean(axis=0) * scale + (0.1, -0.2)
    still = np.repeat(driver.mean(axis=0)[None], 7, axis=0)
    fit = fit_axes(photo, np.ones(134), still, aspect_ratio)
    np.testing.assert_allclose(fit.scale, scale)
    np.testing.assert_allclose(fit.offset, [0.1, -0.2])
    np.testing.assert_allclose(fit(still[0]), photo)
    assert fit.keypoint_ids.tolist() == list(FITTED)
    control = fit_axes(photo, np.ones(134), still, 1.0)
    assert np.abs(control(still[0]) - photo).max() > 0.01


def test_fit_is_the_least_squares_solution():
    generator = np.random.default_rng(1)
    driver, photo, scores = generator.uniform(0, 1, (5, 134, 2)), generator.uniform(0, 1, (134, 2)), np.ones(134)
    scores[[0, 9]] = 0.3  # not above the threshold
    fit = fit_axes(photo, scores, driver, 1.3)
    ids = [k for k in FITTED if k not in (0, 9)]
    y, target = driver[:, ids, 1].ravel(), np.tile(photo[ids, 1], 5)
    expected = np.linalg.lstsq(np.stack([y, np.ones_like(y)], axis=1), target, rcond=None)[0]
    np.testing.assert_allclose([fit.scale[1], fit.offset[1]], expected)
    assert fit.keypoint_ids.tolist() == ids


def test_fit_needs_two_points():
    scores = np.zeros(134)
    scores[5] = 1
    with pytest.raises(InputError, match=r"shows 1 body points.*--alignment none"):
        fit_axes(np.zeros((134, 2)), scores, np.random.default_rng(0).uniform(size=(1, 134, 2)), 1)
    with pytest.raises(InputError, match="one height"):
        fit_axes(np.zeros((134, 2)), np.ones(134), np.zeros((3, 134, 2)), 1)


def test_distance_to_photo():
    photo, scores = np.zeros((134, 2)), np.ones(134)
    photo[10, 1] = 0.5  # a body of 384 pixels
    moved = photo + np.array([0.1, 0])
    hidden = np.zeros((2, 134))
    hidden[0] = 1
    found = distance_to_photo(photo, scores, np.stack([moved, moved]), hidden, PHOTO_SIZE)
    assert found[0] == pytest.approx(0.1 * 512 / 384)
    assert np.isnan(found[1])


def test_what_leaves_the_photo():
    """A wrist that goes beyond each border; not one that the photo or the frame does not show, nor a finger."""
    keypoints, scores = np.full((8, 134, 2), 0.5), np.ones((8, 134))
    for frame, place in enumerate([(-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1), (0, 1), (0.5, 1.1)]):
        keypoints[frame, 4] = place
    scores[5, 4] = 0.1
    keypoints[6, 10] = keypoints[7, 100] = 2
    photo = np.ones(134)
    photo[10] = 0.1
    assert leaves_photo(photo, keypoints, scores).tolist() == [True] * 4 + [False] * 4
    photo[10] = 1  # a control
    assert leaves_photo(photo, keypoints, scores).tolist() == [True] * 4 + [False] * 2 + [True, False]


def skeleton(lengths, angles, root):
    """134 points in pixels from bone lengths (17,) and directions (F, 17) in radians; hands and face around theirs."""
    points = np.zeros((len(angles), 134, 2))
    points[:, 1] = root
    for k, (a, b) in enumerate(BONES):
        direction = np.stack([np.cos(angles[:, k]), np.sin(angles[:, k])], axis=1)
        points[:, b] = points[:, a] + lengths[k] * direction
    for points_of, leader, _ in FOLLOWERS:
        count = points_of.stop - points_of.start
        ring = np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], axis=1)
        points[:, points_of] = points[:, leader : leader + 1] + 10 * ring
    return points


def bones(pixels):
    first, second = np.array(BONES).T
    return pixels[..., second, :] - pixels[..., first, :]


@pytest.fixture
def limbs():
    """A driver of random motion and bones, a photo of other bones, and both scores."""
    generator = np.random.default_rng(4)
    angles = generator.uniform(0, 2 * np.pi, 17) + np.cumsum(generator.normal(0, 0.2, (40, 17)), axis=0)
    roots = np.array([320, 180]) + np.cumsum(generator.normal(0, 3, (40, 2)), axis=0)
    driver = skeleton(generator.uniform(20, 60, 17), angles, roots)
    photo = skeleton(generator.uniform(40, 90, 17), angles[:1] + 0.3, (250, 300))[0]
    return driver, photo, np.ones((40, 134)), np.ones(134)


def test_limb_keeps_the_photo_s_bones_and_the_driver_s_angles(limbs):
    driver, photo, scores, photo_scores = limbs
    fit = fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
    rebuilt = fit(driver / SIZE, scores) * PHOTO_SIZE
    lengths = np.linalg.norm(bones(rebuilt), axis=-1)
    np.testing.assert_allclose(
        lengths, np.broadcast_to(np.linalg.norm(bones(photo), axis=-1), lengths.shape), rtol=0.01
    )
    found, expected = (np.arctan2(*np.moveaxis(bones(pixels), -1, 0)[::-1]) for pixels in (rebuilt, driver))
    assert np.degrees(np.abs(np.angle(np.exp(1j * (found - expected))))).max() < 1
    for points, leader, _ in FOLLOWERS:
        offset, original = (p[:, points] - p[:, leader : leader + 1] for p in (rebuilt, driver))
        ratio = np.linalg.norm(offset, axis=-1) / np.linalg.norm(original, axis=-1)
        np.testing.assert_allclose(ratio, ratio[0, 0])
    residual = (photo - rebuilt)[:, FITTED].mean(axis=(0, 1))
    np.testing.assert_allclose(residual, 0, atol=1e-9)


def test_control_one_scale_an_axis_does_not(limbs):
    driver, photo, _, photo_scores = limbs
    aspect_ratio = np.divide(*SIZE) / np.divide(*PHOTO_SIZE)
    fit = fit_axes(photo / PHOTO_SIZE, photo_scores, driver / SIZE, aspect_ratio)
    lengths = np.linalg.norm(bones(fit(driver / SIZE) * PHOTO_SIZE), axis=-1)
    assert np.abs(lengths / np.linalg.norm(bones(photo), axis=-1) - 1).max() > 0.2


def test_a_bone_that_the_photo_hides_is_like_its_twin(limbs):
    driver, photo, scores, photo_scores = limbs
    photo_scores[4] = 0  # the right wrist
    fit = fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
    assert fit.ratios[BONES.index((3, 4))] == fit.ratios[BONES.index((6, 7))]
    photo_scores[7] = 0
    fit = fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
    assert fit.ratios[BONES.index((3, 4))] == fit.scale


def test_a_shortened_bone_stays_shortened(limbs):
    driver, photo, scores, photo_scores = limbs
    driver[5, 4] = driver[5, 3] + 0.2 * (driver[5, 4] - driver[5, 3])  # a forearm towards the viewer
    fit = fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
    lengths = np.linalg.norm(bones(fit(driver / SIZE, scores) * PHOTO_SIZE), axis=-1)[:, BONES.index((3, 4))]
    assert lengths[5] == pytest.approx(0.2 * lengths[0])


@pytest.mark.parametrize("hidden", [3, 6, 9, 1, 2, 0])
def test_a_hidden_joint_does_not_move_what_is_visible(limbs, hidden):
    driver, photo, scores, photo_scores = limbs
    fit = fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
    before = fit(driver / SIZE, scores) * PHOTO_SIZE
    lost, lost_scores = driver.copy(), scores.copy()
    lost[7, hidden], lost_scores[7, hidden] = (-1e4, -1e4), 0
    after = fit(lost / SIZE, lost_scores) * PHOTO_SIZE
    others = [k for k in range(18) if k != hidden]
    height = np.ptp(photo[:18], axis=0).max()
    assert np.abs(after - before)[7, others].max() < 0.5 * height  # far from the 10 000 pixels of the lost one
    np.testing.assert_array_equal(np.delete(after, 7, axis=0), np.delete(before, 7, axis=0))


def test_limbs_need_bones(limbs):
    driver, photo, scores, photo_scores = limbs
    photo_scores[:] = 0
    with pytest.raises(InputError, match=r"0 visible bones.*--alignment none"):
        fit_limbs(photo / PHOTO_SIZE, photo_scores, PHOTO_SIZE, driver / SIZE, scores, SIZE)
