"""Windows are pure functions: tested for every length, tile and overlap in a range."""

import pytest

from animation.errors import InputError
from animation.windows import window_indices, window_weights

CASES = [(f, t, o) for f in range(1, 41) for t in range(2, 14) for o in range(t)]


def recorded_rule(num_frames, tile, overlap):
    """The original's index lists, as recorded; None where it has none."""
    windows = [[0, *range(i + 1, i + tile)] for i in range(0, num_frames - tile + 1, tile - overlap)]
    if not windows:
        return None
    if windows[-1][-1] < num_frames - 1:
        windows.append([0, *range(num_frames - tile + 1, num_frames)])
    return windows


def test_every_frame_is_covered_in_windows_of_one_size():
    for num_frames, tile, overlap in CASES:
        windows = window_indices(num_frames, tile, overlap)
        assert set().union(*windows) == set(range(num_frames)), (num_frames, tile, overlap)
        assert {len(window) for window in windows} == {min(tile, num_frames)}
        assert all(window == sorted(set(window)) and window[0] == 0 for window in windows)


def test_equal_to_the_original_wherever_it_covers_the_video():
    equal, uncovered = 0, 0
    for num_frames, tile, overlap in CASES:
        expected = recorded_rule(num_frames, tile, overlap)
        if expected is not None and set().union(*expected) == set(range(num_frames)):
            assert window_indices(num_frames, tile, overlap) == expected
            equal += 1
        elif expected is not None:
            assert overlap == 0  # the original leaves frames out only there
            uncovered += 1
    assert equal > 1500
    assert uncovered > 0


@pytest.mark.parametrize("arguments", [(0, 4, 1), (5, 1, 0), (5, 4, 4), (5, 4, -1)])
def test_out_of_range(arguments):
    with pytest.raises(InputError, match="overlap < tile_size"):
        window_indices(*arguments)


def test_weights_are_a_positive_symmetric_triangle():
    assert window_weights(4) == [0.25, 0.75, 0.75, 0.25]
    for size in range(1, 30):
        weights = window_weights(size)
        assert weights == pytest.approx(weights[::-1])
        assert min(weights) > 0
        assert max(weights) <= 1
        assert sum(weights) == pytest.approx(size / 2 if size % 2 == 0 else (size + 1 / size) / 2)
