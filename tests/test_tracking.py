import numpy as np
import pytest

from animation.errors import InputError
from DWPose.keypoints import People
from DWPose.tracking import choose, identify, is_person, overlaps, widen

SIZE = np.array([40, 100])


def frame(*centres, size=SIZE, detected=True):
    """People at centres (x, y), each with the number of its place as every key point."""
    boxes = np.array([[*(np.array(c) - size / 2), *(np.array(c) + size / 2)] for c in centres]).reshape(-1, 4)
    keypoints = np.repeat(np.arange(len(centres), dtype=float), 134 * 2).reshape(-1, 134, 2)
    return People(boxes, keypoints, np.ones((len(centres), 134)), detected)


def places(frames, person="track"):
    """The x of the centre of the person chosen in each frame; None for nobody."""
    chosen = choose(frames, identify(frames), person)
    return [float(people.boxes[0, [0, 2]].mean()) if len(people) else None for people in chosen]


def test_follows_one_person_whatever_the_detector_s_order():
    frames = [frame(*[(100 + 5 * k, 100), (400, 100)][:: (-1) ** k]) for k in range(10)]
    assert places(frames, "0") == [100 + 5 * k for k in range(10)]
    assert places(frames, "1") == [400] * 10


def test_never_jumps_to_another_when_the_person_is_gone():
    frames = [frame((100, 100), (160, 100))] * 3 + [frame((160, 100))] * 4 + [frame((102, 100), (160, 100))] * 2
    assert places(frames, "0") == [100] * 3 + [None] * 4 + [102] * 2


def test_never_jumps_to_one_who_comes_in_elsewhere():
    frames = [frame((100, 100))] * 5 + [frame((400, 100))] * 3
    assert places(frames) == [100] * 5 + [None] * 3


def test_never_jumps_to_one_who_stands_there_long_after():
    frames = [frame((100, 100))] * 5 + [frame()] * 100 + [frame((100, 100))] * 3
    assert places(frames) == [100] * 5 + [None] * 103


def test_who_walked_on_is_not_who_comes_back_the_same_way():
    leaving = [frame((100 - 20 * k, 100)) for k in range(5)]
    entering = [frame((20 + 20 * k, 100)) for k in range(4)]
    found = places([*leaving, *[frame()] * 10, *entering])
    assert found == [100, 80, 60, 40, 20] + [None] * 14


def test_people_who_cross_keep_their_numbers():
    frames = [frame(*sorted([(100 + 12 * k, 100), (340 - 12 * k, 104)])) for k in range(21)]
    assert places(frames, "0") == [100 + 12 * k for k in range(21)]


def test_a_leap_of_the_only_person_is_the_same_person():
    frames = [frame((100, 100))] * 3 + [frame((145, 100))] * 3  # no overlap, less than half a height away
    assert places(frames) == [100] * 3 + [145] * 3


def test_control_overlap_with_the_last_box_alone_would_swap_those_who_cross():
    before, after = frame((212, 100), (228, 104)), frame((216, 104), (224, 100))
    assert overlaps(before.boxes, after.boxes).argmax(axis=1).tolist() == [0, 1]  # and they have crossed


def test_track_is_the_one_who_fills_most_of_the_video():
    passer_by = frame((100, 100), size=3 * SIZE)
    dancer = frame((600, 100))
    both = frame((100, 100), (600, 100))
    both.boxes[0] = passer_by.boxes[0]
    assert places([both] + [dancer] * 20) == [600] * 21


def test_pictures_without_a_detection_do_not_make_anybody_prominent():
    whole = frame((500, 500), size=np.array([1000, 1000]), detected=False)
    frames = [frame((100, 100), (600, 100))] * 2
    for people in frames:
        people.boxes[0] += (-30, -30, 30, 30)
    assert places([*frames, frame((600, 100)), whole, whole]) == [100, 100, None, None, None]


def test_largest_is_chosen_frame_by_frame():
    near, far = frame((100, 100), size=2 * SIZE), frame((300, 100))
    assert places([near, far, near], "largest") == [100, 300, 100]


def test_all_keeps_everyone():
    frames = [frame((100, 100), (300, 100)), frame()]
    assert [len(people) for people in choose(frames, identify(frames), "all")] == [2, 0]


def test_a_picture_without_a_detection_goes_to_the_person_seen_last():
    whole = frame((250, 250), size=np.array([500, 500]), detected=False)
    frames = [frame((100, 100))] * 3 + [whole] + [frame((101, 100))] * 2
    assert places(frames) == [100] * 3 + [250] + [101] * 2
    assert places(frames[3:]) == [250] + [101] * 2
    assert places([whole] * 2) == [250] * 2


@pytest.mark.parametrize("person", ["2", "somebody", "-1", "1.5"])
def test_refuses_who_is_not_there(person):
    frames = [frame((100, 100), (300, 100))]
    with pytest.raises(InputError, match="number from 0"):
        choose(frames, identify(frames), person)


def test_somebody_is_a_box_or_as_the_original_has_it_four_visible_points():
    scores = np.zeros((2, 134))
    scores[0, :4], scores[1, :3] = 0.31, 0.31
    people = People(np.zeros((2, 4)), np.zeros((2, 134, 2)), scores, detected=False)
    assert is_person(people).tolist() == [False, False]
    assert is_person(people, trusting=True).tolist() == [True, False]
    people.detected = True
    assert is_person(people).all()


def test_overlaps_of_known_boxes():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], float)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    np.testing.assert_allclose(overlaps(boxes, others), [[1, 1 / 3, 0], [0, 0, 0]])


def test_boxes_are_widened_by_the_limbs_of_the_same_person_a_frame_before():
    before = People(
        np.array([[0, 0, 100, 200], [300, 0, 400, 200]], float), np.full((2, 133, 2), 50.0), np.ones((2, 133))
    )
    before.keypoints[0, :17] = np.stack([np.linspace(10, 90, 17), np.linspace(10, 190, 17)], axis=1)
    before.keypoints[0, 9] = (-40, 100)  # a wrist out of the box
    before.keypoints[1, :17] = (350, 100)
    boxes = np.array([[302, 0, 402, 200], [4, 2, 104, 198]], float)
    wide = widen(boxes, before)
    np.testing.assert_array_equal(wide[0], boxes[0])
    np.testing.assert_allclose(wide[1], [-49, 1, 104, 199])  # 5 % of the body's 180 pixels beside the points
    before.scores[0, 9] = 0.1
    np.testing.assert_allclose(widen(boxes, before)[1], [1, 1, 104, 199])  # a hidden wrist does not count
    before.detected = False
    np.testing.assert_array_equal(widen(boxes, before), boxes)
    assert len(widen(np.zeros((0, 4)), before)) == 0
