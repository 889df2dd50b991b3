"""How a long video is split into windows that the UNet can see at once, and how their predictions blend."""

from animation.errors import InputError

GOLDEN_RATIO = (5**0.5 - 1) / 2


def window_indices(num_frames: int, tile_size: int, overlap: int) -> list[list[int]]:
    """The frames that each window holds, ascending.

    Every window starts with frame 0, which anchors it to the photo, and goes on with `tile_size` − 1 consecutive
    frames; each next window starts `tile_size` − `overlap` frames later, and a last one ends with the video. A
    video shorter than a window is one window.

    Args:
        num_frames: length of the video, at least 1.
        tile_size: frames of a window, at least 2.
        overlap: frames that neighbours share, 0 … `tile_size` − 1. Frame 0 takes one place of each window, so that
            windows 0 apart in this count would leave one frame between them out: an overlap of 0 acts as 1.

    Raises:
        InputError: an argument is outside its range.
    """
    if num_frames < 1 or tile_size < 2 or not 0 <= overlap < tile_size:
        got = f"num_frames {num_frames}, tile_size {tile_size}, overlap {overlap}"
        raise InputError(f"windows need num_frames ≥ 1, tile_size ≥ 2 and 0 ≤ overlap < tile_size; got {got}")
    if num_frames <= tile_size:
        return [list(range(num_frames))]
    step = min(tile_size - overlap, tile_size - 1)
    starts = range(0, num_frames - tile_size + 1, step)
    windows = [[0, *range(start + 1, start + tile_size)] for start in starts]
    if windows[-1][-1] < num_frames - 1:
        windows.append([0, *range(num_frames - tile_size + 1, num_frames)])
    return windows


def shifted_windows(num_frames: int, tile_size: int, step: int) -> list[list[int]]:
    """The windows of a step, next to each other with no overlap, where each step has its borders elsewhere.

    Every window starts with frame 0. The borders of step 0 are those of an overlap of 1; those of step s lie the
    fractional part of s times the golden ratio further, a share of a window, so that they spread evenly over few steps.
    The first and the last window are whole, and share frames with their neighbours.

    Args:
        num_frames, tile_size: see `window_indices`.
        step: of the sampler, from 0.
    """
    if num_frames <= tile_size:
        return window_indices(num_frames, tile_size, 0)
    own = tile_size - 1  # frames of a window, without frame 0
    offset = int(step * GOLDEN_RATIO % 1 * own)
    starts = {min(max(start, 1), num_frames - own) for start in range(1 + offset - own, num_frames, own)}
    return [[0, *range(start, start + own)] for start in sorted(starts)]


def windows_of_steps(kind: str, num_frames: int, tile_size: int, overlap: int, num_steps: int) -> list[list[list[int]]]:
    """The windows of each step, `overlapping` or `shifted`: see `window_indices` and `shifted_windows`."""
    if kind == "shifted":
        return [shifted_windows(num_frames, tile_size, step) for step in range(num_steps)]
    return [window_indices(num_frames, tile_size, overlap)] * num_steps


def window_weights(size: int) -> list[float]:
    """The weight of each frame in a window of `size` frames: a triangle, w = min(u, 2 − u) with u = (2k + 1)/size."""
    return [min(u, 2 - u) for u in ((2 * k + 1) / size for k in range(size))]
