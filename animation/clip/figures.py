"""What can be told of a finished clip in numbers: its seams, and whether the face is the photo's."""

from collections.abc import Iterable, Sequence

import numpy as np

from animation.face.detection import FaceFinder
from animation.face.embedding import embed_largest


def window_borders(windows: Sequence[Sequence[int]]) -> list[int]:
    """The frames before which the set of windows that a frame is in changes, frame 0 and 1 apart; ascending.

    Args:
        windows: as `animation.windows.window_indices` gives them; frame 0 is in all.
    """
    borders = {window[1] for window in windows if len(window) > 1} | {window[-1] + 1 for window in windows}
    last = max(window[-1] for window in windows)
    return sorted(border for border in borders if 1 < border <= last)


def jump(before: np.ndarray, after: np.ndarray) -> float:
    """The mean absolute difference of two frames, (H, W, 3) uint8, in steps of 8 bits."""
    return float(np.abs(before.astype(np.int16) - after.astype(np.int16)).mean())


def seams(jumps: Sequence[float], borders: Iterable[int]) -> dict:
    """How much more the picture jumps at the windows' borders than between other frames.

    Args:
        jumps: F − 1 figures, of frames 0 and 1, 1 and 2 and so on.
        borders: frames before which a window begins, or after which one ended.

    Returns:
        `borders`; `at_borders`, the mean jump there; `median_step`, the median jump of all frames; `ratio` of the two,
        about 1 where seams cannot be seen. The figures are None where there is no border, or nothing moves.
    """
    borders = [border for border in borders if 0 < border <= len(jumps)]
    figures: dict = {"borders": borders, "at_borders": None, "median_step": None, "ratio": None}
    if len(jumps):
        figures["median_step"] = round(median := float(np.median(jumps)), 4)
        if borders:
            figures["at_borders"] = round(at_borders := float(np.mean([jumps[border - 1] for border in borders])), 4)
            figures["ratio"] = round(at_borders / median, 4) if median else None
    return figures


class Likeness:
    """CSIM: the cosine of ArcFace's embeddings of a frame's largest face and the photo's.

    Args:
        finder: opened face models.
        photo_embedding: (512,); zeros where the photo has no face.
        channel_order: handed to the networks, as for the photo.
    """

    def __init__(self, finder: FaceFinder, photo_embedding: np.ndarray, channel_order: str):
        self.finder, self.channel_order = finder, channel_order
        length = np.linalg.norm(photo_embedding)
        self.reference = photo_embedding / length if length else None

    def __call__(self, frame_rgb: np.ndarray) -> float | None:
        """−1..1 for (H, W, 3) uint8; None where there is no face."""
        if self.reference is None:
            return None
        embedding = embed_largest(self.finder, frame_rgb, self.channel_order)
        length = 0 if embedding is None else np.linalg.norm(embedding)
        return round(float(embedding @ self.reference / length), 4) if length else None
