"""The synthetic world: the same from the same seed, true to its pictures, and nobody in it taken for another."""

from dataclasses import astuple, replace

import cv2
import numpy as np
import pytest

from DWPose import drawing
from DWPose.keypoints import to_openpose
from puppets.anatomy import FACE, LEFT_HAND, RIGHT_HAND
from puppets.characters import HAIR_STYLES, make_character
from puppets.clips import Clip, encode_png, face_masks, make_clip, make_stage, people, skeleton, skeleton_canvas
from puppets.hiding import WAYS, hide
from puppets.motions import KINDS, Limb, Pose, make_motion
from puppets.rendering import Place, figure_height, render
from puppets.seeds import SPLITS, generator

SIDE = 160  # pixels
STANDING = Pose(Limb(0.5), Limb(0.5), Limb(0.1), Limb(0.1))
ARMS = (9, 10, *range(*LEFT_HAND.indices(133)), *range(*RIGHT_HAND.indices(133)))  # wrists and hands


def stand(index=0, pose=STANDING, place=Place(), split="training"):  # noqa: B008
    """A picture of one character, and the truth about it."""
    image, (truth,) = render([(make_character(split, index), pose, place)], make_stage(split, index), SIDE, SIDE)
    return image, truth


def every_motion(count=20):
    """Clips of all kinds of motion."""
    return [make_clip("training", i, KINDS[i % len(KINDS)]) for i in range(count)]


def test_the_same_seed_gives_the_same_bytes():
    first, second = (make_clip("training", 5, people=2) for _ in range(2))
    assert first == second
    (image, truths), (again, truths_again) = (clip.render(3, 96, 144) for clip in (first, second))
    assert encode_png(image) == encode_png(again)
    for truth, same in zip(truths, truths_again, strict=True):
        for name, value in vars(truth).items():
            np.testing.assert_array_equal(value, getattr(same, name))
    others = [make_clip("training", 6, people=2), make_clip("held_out", 5, people=2)]
    assert all((other.render(3, 96, 144)[0] != image).mean() > 0.1 for other in others)


def test_splits_share_no_random_numbers():
    states = {
        (split, index, what): int(generator(split, index, what).bit_generator.state["state"]["state"])
        for split in SPLITS
        for index in range(2000)
        for what in ("character", "motion")
    }
    assert len(set(states.values())) == len(states)
    characters = {split: {astuple(make_character(split, i)) for i in range(300)} for split in SPLITS}
    assert all(len(found) == 300 for found in characters.values())
    assert not characters["training"] & characters["held_out"]
    for bad in (("test", 0), ("training", -1)):
        with pytest.raises(ValueError, match=r"unknown|below 0"):
            generator(*bad, "character")


def test_characters_have_sound_proportions():
    characters = [make_character("held_out", i) for i in range(300)]
    assert {character.hair_style for character in characters} == set(HAIR_STYLES)
    for character in characters:
        assert 0.2 < character.torso_length < 0.4
        assert character.shoulder_width > character.hip_width
    assert {bool(character.glasses) for character in characters} == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_motions_are_periodic_and_smooth(kind):
    def numbers(pose):
        return np.concatenate([np.ravel(value) for value in astuple(pose)])

    for i in range(10):
        motion = make_motion("training", i, kind)
        assert motion.kind == kind
        np.testing.assert_allclose(numbers(motion(0)), numbers(motion(motion.period)), atol=1e-9)
        coarse, fine = (
            np.diff([numbers(motion(t)) for t in np.arange(0, motion.period, step)], axis=0) / step
            for step in (0.2, 0.1)
        )
        assert np.abs(coarse).max() < 0.75  # radians a frame
        assert np.abs(np.diff(fine, axis=0)).max() < 0.05  # no kink: the speed changes little in a tenth of a frame
        assert np.ptp([numbers(motion(t)) for t in range(motion.period)], axis=0).max() > 0.2  # control: it moves
        roaming = make_motion("training", i, kind, roams=True)
        np.testing.assert_allclose(numbers(roaming(0)), numbers(roaming(motion.period)), atol=1e-9)
        travels = [np.ptp([m(t).shift for t in range(motion.period)]) for m in (motion, roaming)]
        assert travels[1] > travels[0] + 0.04
    with pytest.raises(ValueError, match="motion 'run' is unknown"):
        make_motion("training", 0, "run")


def test_keypoints_lie_on_what_is_drawn():
    """Visible points are where the picture differs from the empty stage; moved ones are often not."""
    on, moved, count = 0, 0, 0
    for clip in every_motion():
        for frame in (0, 5, 11):
            image, (truth,) = clip.render(frame, SIDE, SIDE)
            empty, _ = render([], clip.stage, SIDE, SIDE)
            differs = np.abs(image.astype(int) - empty).max(axis=-1) > 8
            x, y = np.floor(truth.keypoints[truth.visible]).astype(int).T
            on, count = on + differs[y, x].sum(), count + len(x)
            moved += differs[y, (x + 24) % SIDE].sum()
    assert on / count > 0.995
    assert moved / count < 0.7


def test_limb_points_lie_inside_their_limbs():
    """Each point's distance to the joints of its limb is none; hidden ones have a hand or an arm on top of them."""
    covered = 0
    for clip in every_motion():
        for frame in (0, 4, 9):
            _, (truth,) = clip.render(frame, SIDE, SIDE)
            body = truth.present.copy()
            body[FACE] = False
            hidden = np.flatnonzero(body & ~truth.visible)
            covered += len(hidden)
            hands = truth.keypoints[list(ARMS)]
            figure = figure_height(SIDE, SIDE)
            for k in hidden:
                near = np.linalg.norm(hands - truth.keypoints[k], axis=1).min() / figure
                elbows = np.linalg.norm(truth.keypoints[[5, 6, 7, 8]] - truth.keypoints[k], axis=1).min() / figure
                assert min(near, elbows) < 0.12 or k in (3, 4), (clip.actors[0][1], frame, k)
    assert covered < 0.02 * 60 * 133


def test_a_standing_character_shows_everything():
    for index in range(20):
        _, truth = stand(index)
        assert truth.visible.all(), np.flatnonzero(~truth.visible)
        x, y = truth.keypoints.T
        x0, y0, x1, y1 = truth.person_box
        assert (x >= x0 - 1).all() and (x <= x1).all() and (y >= y0 - 1).all() and (y <= y1).all()
        assert x[5] > x[6] and x[1] > x[2]  # its left is the picture's right
        assert y[0] < y[5] < y[11] < y[13] < y[15]  # nose, shoulder, hip, knee, ankle
        jaw, brows, nose, eyes, mouth = (
            truth.keypoints[FACE][part]
            for part in (slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68))
        )
        assert brows[:, 1].mean() < eyes[:, 1].mean() < nose[:, 1].mean() < mouth[:, 1].mean() < jaw[:, 1].max()
        assert (np.diff(jaw[:, 0]) > 0).all()
        assert jaw[:, 1].argmax() == 8  # the chin
        for eye in (eyes[:6], eyes[6:]):
            assert eye[0, 0] < eye[1:3, 0].min() and eye[3, 0] > eye[4:, 0].max()
            assert eye[1:3, 1].max() < eye[4:, 1].min()
        left, right = truth.landmarks[0], truth.landmarks[1]
        assert left[0] < right[0]
        np.testing.assert_allclose(left, eyes[:6].mean(axis=0), atol=1.5)


def test_a_turned_head_hides_its_far_side():
    for yaw, far, near in ((1.1, 3, 4), (-1.1, 4, 3)):  # to its left: the left ear goes behind
        _, truth = stand(pose=replace(STANDING, yaw=yaw))
        assert not truth.visible[far]
        assert truth.visible[near]
        far_eye = 1 if yaw > 0 else 2
        assert not truth.present[far_eye]
        assert truth.present[3 - far_eye]
        assert 10 < truth.present[FACE].sum() < 68
    assert np.ptp(stand(pose=replace(STANDING, yaw=0.5))[1].landmarks[:2, 0]) < np.ptp(stand()[1].landmarks[:2, 0])


def test_outside_of_the_frame_nothing_is_visible():
    _, truth = stand(place=Place(x=0.0))
    x = truth.keypoints[:, 0]
    np.testing.assert_array_equal(truth.visible, x >= 0)
    assert 30 < truth.visible.sum() < 110
    assert truth.person_box[0] == 0
    _, truth = stand(place=Place(x=3.0))
    assert not truth.visible.any()
    assert not truth.face_mask.any()
    assert not truth.person_box.any()


def test_the_front_character_covers_the_other():
    clip = make_clip("training", 3, "turn", people=2)
    (first, motion, _), (second, other, place) = clip.actors
    _, (alone, _) = render(
        [(first, motion(0), Place(0.25, height=0.6)), (second, other(0), Place(0.8, height=0.6))],
        clip.stage,
        SIDE,
        SIDE,
    )
    assert alone.visible.sum() > 100
    same_place = Clip(((first, motion, place), (second, other, place)), clip.stage)
    _, (behind, front) = same_place.render(0, SIDE, SIDE)
    assert behind.visible.sum() < 40
    assert behind.present.sum() > 100
    assert front.visible.sum() > 100
    assert behind.face_mask.sum() < 0.2 * front.face_mask.sum()
    assert people([behind, front]).keypoints.shape == (2, 133, 2)


def test_the_mask_covers_the_face():
    for clip in every_motion():
        _, truths = clip.render(7, SIDE, SIDE)
        mask = face_masks(truths)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        (truth,) = truths
        points = np.floor(truth.keypoints[FACE][truth.visible[FACE]]).astype(int)
        assert (mask[points[:, 1], points[:, 0]] == 255).mean() > 0.97
        rows, columns = np.nonzero(mask)
        x0, _, x1, y1 = truth.face_box
        assert abs(columns.min() - x0) <= 3 or abs(columns.max() - x1) <= 3
        assert abs(rows.max() - y1) <= 3
        others = np.floor(truth.keypoints[[11, 12, 13, 14, 15, 16]]).astype(int)
        assert not mask[others[:, 1].clip(0, SIDE - 1), others[:, 0].clip(0, SIDE - 1)].any()  # control: hips, legs
    _, covered = stand(pose=replace(STANDING, left_arm=Limb(2.5, 1.9)))  # a hand before the face
    assert covered.face_mask.sum() < 0.97 * stand()[1].face_mask.sum()


def test_the_mask_covers_the_hands_where_these_are_wanted():
    for clip in every_motion():
        _, (truth,) = clip.render(7, SIDE, SIDE)
        mask = face_masks([truth], hands=True)
        shown = truth.face_mask | truth.hand_mask
        assert mask[shown].all()
        around = cv2.distanceTransform((~truth.hand_mask).astype(np.uint8), cv2.DIST_C, 3)
        np.testing.assert_array_equal(mask == 255, truth.face_mask | (around <= SIDE // 32))
        points = [np.floor(truth.keypoints[hand][truth.visible[hand]]).astype(int) for hand in (LEFT_HAND, RIGHT_HAND)]
        x, y = np.concatenate(points).T
        assert (truth.hand_mask[y, x]).mean() > 0.8
        assert not truth.hand_mask[tuple(truth.keypoints[5:7].astype(int).T[::-1])].any()  # control: shoulders
        np.testing.assert_array_equal(face_masks([truth]) == 255, truth.face_mask)


def test_any_size_shows_the_same_picture():
    clip = make_clip("training", 2, "wave")
    large, (truth,) = clip.render(4, 640, 640)
    for side in (64, 128, 320):
        image, (small,) = clip.render(4, side, side)
        reduced = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(image - reduced).mean() < 2
        np.testing.assert_allclose(small.keypoints * 640 / side, truth.keypoints, atol=1e-6)
        other, _ = clip.render(12, side, side)
        assert np.abs(other - reduced).mean() > 4  # control: another moment
    wide, _ = clip.render(4, 320, 128)
    assert wide.shape == (128, 320, 3)
    with pytest.raises(ValueError, match="too small"):
        clip.render(0, 8, 64)


def test_roaming_characters_are_seldom_where_their_photo_has_them():
    """The body's points of another moment, copied, are less often within a tenth of the figure."""
    shares = []
    for roams in (False, True):
        clips = [make_clip("held_out", i, roams=roams) for i in range(12)]
        points = [[clip.render(t, 64, 64)[1][0].keypoints[5:17] for t in (-7, 0, 5)] for clip in clips]
        (photo, *frames), size = np.array(points).swapaxes(0, 1), figure_height(64, 64)
        shares.append((np.linalg.norm(frames - photo, axis=-1) < 0.1 * size).mean())
    assert shares[1] < 0.75 * shares[0], shares


@pytest.mark.parametrize("way", WAYS)
def test_a_hidden_face_cannot_be_told(way):
    """The face's pixels are others, clothes are to be seen all the same."""
    for index in range(4):
        clip = make_clip("held_out", index, "wave")
        image, (truth,) = clip.render(3, SIDE, SIDE)
        hidden = hide(clip, 3, SIDE, SIDE, way)
        changed = np.abs(hidden.astype(int) - image).mean(axis=-1)
        assert changed[truth.face_mask].mean() > 8
        legs = changed[int(truth.keypoints[11:13, 1].max()) :]
        assert way == "small" or legs.max() == 0
        top = np.array(clip.actors[0][0].top)
        assert (np.abs(hidden.astype(int) - top).max(axis=-1) < 3).sum() > 100  # its shirt
    with pytest.raises(ValueError, match="way 'mask' is unknown"):
        hide(clip, 0, SIDE, SIDE, "mask")


def test_edges_are_smooth():
    """A movement of a tenth of a pixel changes the picture, and less than one of a whole pixel."""
    base, tenth, whole = (stand(place=Place(x=0.5 + shift / SIDE))[0].astype(int) for shift in (0, 0.1, 1))
    assert 0 < np.abs(tenth - base).mean() < 0.4 * np.abs(whole - base).mean()
    assert len(np.unique(base.reshape(-1, 3), axis=0)) > 100  # mixed colours along the edges


def face_crop(image, truth):
    """The face turned upright and scaled by its landmarks, (32, 32, 3)."""
    target = np.float32([[10, 12], [22, 12], [16, 18], [12, 24], [20, 24]])
    matrix, _ = cv2.estimateAffinePartial2D(np.float32(truth.landmarks), target, method=cv2.LMEDS)
    return cv2.warpAffine(image, matrix, (32, 32), flags=cv2.INTER_LINEAR).astype(float)


def test_characters_are_recognisable():
    """The nearest face by plain pixels, in another pose, is mostly the same character's."""
    poses = STANDING, replace(STANDING, yaw=0.25, roll=0.1, mouth=0.3)
    faces = [
        np.stack([face_crop(*stand(i, pose, split="held_out")) for i in range(40)]) for pose in poses
    ]  # 2 × (40, 32, 32, 3)
    distances = np.square(faces[0][:, None] - faces[1][None]).mean(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == np.arange(40)).mean() > 0.85
    shuffled = distances[:, np.random.default_rng(0).permutation(40)]
    assert (shuffled.argmin(axis=1) == np.arange(40)).mean() < 0.2  # control


def test_skeletons_are_dwposes_drawing():
    clip = make_clip("training", 1, people=2)
    _, truths = clip.render(2, 96, 128)
    keypoints = np.stack([truth.keypoints for truth in truths])
    points, scores = to_openpose(keypoints, np.stack([truth.present for truth in truths]).astype(float))
    expected = drawing.draw(points / (96, 128), scores, 96, 128, short_side=288)
    np.testing.assert_array_equal(skeleton(truths, 96, 128), expected)
    thin = drawing.draw(points / (96, 128), scores, 96, 128)
    assert (expected > 60).mean() > 2 * (thin > 60).mean()  # strokes suit the size
    np.testing.assert_array_equal(skeleton(truths, 96, 128, canvas=drawing.SHORT_SIDE), thin)
    assert (skeleton_canvas(128, 192), skeleton_canvas(1080, 1920)) == (384, 2160)


def test_bad_clips():
    with pytest.raises(ValueError, match="1 or 2"):
        make_clip("training", 0, people=3)
