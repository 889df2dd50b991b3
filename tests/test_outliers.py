"""Joints that jump out of their motion: found in motions of closed form, filled, and nothing else touched."""

import numpy as np
import pytest

from animation.weights.layout import find_checkpoints
from DWPose.arrangement import arrange
from DWPose.keypoints import CONFIDENCE, LEFT_HAND, People, to_openpose
from DWPose.outliers import drop_outliers, find_outliers
from DWPose.recording import Recording
from DWPose.wholebody import Wholebody
from puppets.clips import make_clip
from puppets.motions import KINDS
from tests.pose_models import figure

FRAMES, HEIGHT = 24, 200
WRIST = 7  # in OpenPose's order
COCO_WRIST = 9


def dance():
    """(F, 133, 2): a standing figure whose left forearm swings about its elbow, all of it swaying, in pixels."""
    time = 2 * np.pi * np.arange(FRAMES) / 12
    body = np.tile(figure() * HEIGHT, (FRAMES, 1, 1))
    elbow, arm = body[:, 7], 0.15 * HEIGHT * np.stack([np.cos(0.8 * np.sin(time)), np.sin(0.8 * np.sin(time))], axis=1)
    hand = slice(91, 112)
    body[:, hand] += (elbow + arm - body[:, COCO_WRIST])[:, None]
    body[:, COCO_WRIST] = elbow + arm
    return body + (10 * np.sin(time))[:, None, None] * (1, 0)


def recorded(keypoints, scores=None, absent=()):
    scores = np.ones(keypoints.shape[:2]) if scores is None else scores
    video = [
        People(np.array([[0, 0, HEIGHT, HEIGHT]]), keypoints[k : k + 1], scores[k : k + 1])
        if k not in absent
        else People(np.zeros((0, 4)), np.zeros((0, 133, 2)), np.zeros((0, 133)))
        for k in range(len(keypoints))
    ]
    return Recording(None, None, video, (HEIGHT, HEIGHT), 12.0)


def ordered(keypoints):
    """(F, 134, 2), in OpenPose's order."""
    return to_openpose(keypoints, np.ones(keypoints.shape[:2]))[0]


def wild(keypoints, *frames):
    """With the left wrist and hand at the upper border in some frames."""
    keypoints = keypoints.copy()
    for frame in frames:
        keypoints[frame, [COCO_WRIST, *range(91, 112)]] = (150, 1)
    return keypoints


def test_motion_has_no_outliers_and_a_wild_wrist_is_one():
    motion = ordered(dance())
    scores = np.ones(motion.shape[:2])
    assert not find_outliers(motion, scores).any()
    for frames in ([10], [0], [FRAMES - 1], [3, 15]):
        found = find_outliers(ordered(wild(dance(), *frames)), scores)
        assert np.argwhere(found).tolist() == [[frame, WRIST] for frame in frames]


def test_size_and_place_do_not_matter_and_hidden_joints_are_none():
    scores = np.ones((FRAMES, 134))
    motion = ordered(wild(dance(), 10))
    found = find_outliers(motion, scores)
    np.testing.assert_array_equal(find_outliers(motion * 0.01 + 5, scores), found)
    scores[10, WRIST] = 0.1
    assert not find_outliers(motion, scores).any()
    assert not find_outliers(motion[:2], scores[:2]).any()  # nothing to compare with


def test_fingers_out_of_reach_are_hidden_at_their_wrist():
    motion = ordered(dance())
    scores, none = np.ones(motion.shape[:2]), np.zeros((FRAMES, 18), bool)
    keypoints, kept = drop_outliers(motion, scores, none, "interpolate")
    np.testing.assert_array_equal(keypoints, motion)  # hands of a person's length stay
    tip = range(134)[LEFT_HAND][8]
    motion[5, tip] = (150, 1)
    keypoints, kept = drop_outliers(motion, scores, none, "interpolate")
    assert np.argwhere(kept == 0).tolist() == [[5, tip]]
    np.testing.assert_array_equal(keypoints[5, tip], motion[5, WRIST])


@pytest.mark.parametrize("missing", ["interpolate", "hold", "blank"])
def test_outliers_are_filled_with_the_hand_that_hangs_on_them(missing):
    clean, motion = ordered(dance()), ordered(wild(dance(), 10))
    scores = np.ones(motion.shape[:2])
    keypoints, filled = drop_outliers(motion, scores, find_outliers(motion, scores), missing)
    moved = [WRIST, *range(134)[LEFT_HAND]]
    others = np.setdiff1d(np.arange(134), moved)
    np.testing.assert_array_equal(keypoints[:, others], motion[:, others])
    np.testing.assert_array_equal(np.delete(keypoints, 10, 0), np.delete(motion, 10, 0))
    assert (filled[10, moved] == (0 if missing == "blank" else 1)).all()
    if missing == "interpolate":
        np.testing.assert_allclose(keypoints[10, moved], (clean[9, moved] + clean[11, moved]) / 2)
    if missing == "hold":
        np.testing.assert_array_equal(keypoints[10, moved], clean[9, moved])


def test_arrangements_keep_them_unless_told():
    recording = recorded(wild(dance(), 10), absent=[12])
    kept, dropped = (arrange(recording, "none", outliers=choice) for choice in ("keep", "drop"))
    clean = arrange(recorded(dance(), absent=[12]), "none")
    assert kept.outliers.sum() == 0
    assert dropped.outliers.tolist() == [int(frame == 10) for frame in range(FRAMES)]
    far = [np.abs(found.drawn.keypoints - clean.drawn.keypoints)[:, WRIST].max() for found in (kept, dropped)]
    assert far[0] > 0.3  # the control
    assert far[1] < 0.06


@pytest.mark.slow
def test_no_joint_of_drivers_that_no_network_saw_is_far_from_the_truth():
    """The small networks on puppets of all motions, with widened boxes and without outliers."""
    networks = find_checkpoints()
    wholebody = Wholebody(networks.detector, networks.pose_estimator, "cpu")
    for index, kind in enumerate(KINDS * 4):
        clip, recording = make_clip("held_out", 200 + index, kind), recorded(np.zeros((0, 133, 2)))
        recording.video_size, truths = (256, 256), []
        for frame in range(12):
            picture, (truth,) = clip.render(frame, 256, 256)
            before = recording.video[-1] if recording.video else None
            recording.video.append(wholebody.estimate(picture, before=before))
            truths.append(truth)
        drawn = arrange(recording, "none", outliers="drop").drawn
        truth = np.stack([truth.keypoints for truth in truths])
        target, present = to_openpose(truth, np.stack([truth.present for truth in truths]).astype(float))
        heights = [np.ptp(truth.person_box[1::2]) for truth in truths]
        far = np.linalg.norm(drawn.keypoints * 256 - target, axis=-1)[:, :18] / np.array(heights)[:, None]
        shown = (present > 0)[:, :18] & (drawn.scores > CONFIDENCE)[:, :18]
        assert far[shown].max() < 0.15, kind
