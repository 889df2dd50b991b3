"""Face boxes from masks and from face points."""

import io

import numpy as np
import pytest
from PIL import Image

from animation.face.boxes import (
    SMALLEST_FACE,
    FaceBox,
    bounds_of_points,
    box_from_mask,
    boxes_from_masks,
    boxes_from_skeletons,
    clip_box,
)
from DWPose.keypoints import FACE, NUM_KEYPOINTS
from DWPose.recording import Drawn


def mask(*boxes, size=(120, 90), value=255):
    found = np.zeros(size, np.uint8)
    for y_min, y_max, x_min, x_max in boxes:
        found[y_min : y_max + 1, x_min : x_max + 1] = value
    return found


def test_bounds_are_inclusive_and_scale_exhaustively():
    for y_min, y_max, x_min, x_max in ((0, 9, 0, 8), (20, 60, 10, 40), (100, 119, 70, 89), (0, 119, 0, 88)):
        found = mask((y_min, y_max, x_min, x_max))
        assert box_from_mask(found, 120, 90) == (y_min, y_max, x_min, x_max)
        for scale in (2, 3):
            expected = (y_min * scale, (y_max + 1) * scale - 1, x_min * scale, (x_max + 1) * scale - 1)
            assert box_from_mask(found, 120 * scale, 90 * scale) == expected
    assert box_from_mask(mask((20, 60, 10, 40)), 60, 90) == (10, 30, 10, 40)  # each axis by its own scale


@pytest.mark.parametrize("value", [0, 127, 255])
def test_black_and_white_masks_are_no_face(value):
    assert box_from_mask(np.full((60, 50), value, np.uint8), 60, 50) is None


def test_a_face_too_small_to_recognise_is_none():
    side = SMALLEST_FACE
    assert box_from_mask(mask((10, 10 + side - 2, 10, 40)), 120, 90) is None
    assert box_from_mask(mask((10, 10 + side - 1, 10, 40)), 120, 90) is not None


def test_the_largest_of_several_regions():
    assert box_from_mask(mask((5, 25, 5, 25), (60, 100, 40, 80), (110, 118, 0, 8)), 120, 90) == (60, 100, 40, 80)


def test_jpeg_and_feathered_edges_move_the_box_little():
    clean = mask((20, 60, 10, 40))
    file = io.BytesIO()
    Image.fromarray(clean).save(file, "JPEG", quality=70)
    file.seek(0)
    noisy = np.asarray(Image.open(file))
    assert (noisy[clean == 0] > 0).any()  # only pixels of exactly 255 would not do
    assert (noisy[clean == 255] < 255).any()
    assert np.abs(np.array(box_from_mask(noisy, 120, 90)) - (20, 60, 10, 40)).max() <= 1


def test_colour_masks():
    image = Image.fromarray(np.repeat(mask((20, 60, 10, 40))[..., None], 3, axis=2))
    assert boxes_from_masks([image, Image.new("RGB", (90, 120))], 120, 90) == [FaceBox(20, 60, 10, 40), None]


def face_points(left, top, right, bottom):
    t = np.linspace(0, 1, 17)
    edge = np.concatenate([[[left, top], [right, bottom]], np.stack([left + (right - left) * t, top + 0 * t], 1)])
    inside = np.tile([[(left + right) / 2, (top + bottom) / 2]], (68 - len(edge), 1))
    return np.concatenate([edge, inside])


def test_points_grow_to_a_detectors_box():
    points, scores = face_points(10, 20, 30, 50), np.ones(68)
    np.testing.assert_allclose(bounds_of_points(points, scores), [9, 11, 31, 51.5])
    scores[:34] = 0.3
    assert bounds_of_points(points, scores) is not None
    scores[34] = 0.3
    assert bounds_of_points(points, scores) is None
    assert clip_box((3, -5, 200, 20.2), 100, 90) == (0, 20, 3, 89)
    assert clip_box((3, -50, 200, -2), 100, 90) is None


def test_the_largest_face_of_each_frame():
    keypoints, scores = np.zeros((3, NUM_KEYPOINTS, 2)), np.ones((3, NUM_KEYPOINTS))
    for row, box in enumerate([(0.1, 0.2, 0.2, 0.4), (0.5, 0.2, 0.7, 0.6), (0.5, 0.2, 0.9, 0.6)]):
        keypoints[row, FACE] = face_points(*box)
    drawn = Drawn(np.array([0, 0, 5]), keypoints, scores, (90, 120), 6)
    boxes = boxes_from_skeletons(drawn, 200, 100)
    assert [box is None for box in boxes] == [False, True, True, True, True, False]
    top, left, right, bottom = 200 * (0.2 - 0.3 * 0.4), 100 * 0.49, 100 * 0.71, 200 * 0.62
    assert boxes[0] == clip_box((left, top, right, bottom), 200, 100)


def test_a_face_out_of_the_frame_does_not_outweigh_the_one_in_it():
    keypoints, scores = np.zeros((2, NUM_KEYPOINTS, 2)), np.ones((2, NUM_KEYPOINTS))
    for row, box in enumerate([(-0.8, 0.1, 0.05, 0.9), (0.4, 0.3, 0.6, 0.5)]):
        keypoints[row, FACE] = face_points(*box)
    boxes = boxes_from_skeletons(Drawn(np.array([0, 0]), keypoints, scores, (90, 120), 1), 200, 100)
    alone = boxes_from_skeletons(Drawn(np.array([0]), keypoints[1:], scores[1:], (90, 120), 1), 200, 100)
    assert boxes == alone
