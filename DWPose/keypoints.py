"""The 133 key points of COCO-WholeBody, and the 134 in OpenPose's order that are aligned and drawn."""

from dataclasses import dataclass

import numpy as np

NUM_WHOLEBODY = 133  # 17 body, 6 feet, 68 face, 21 left hand, 21 right hand
NUM_KEYPOINTS = 134  # the neck added, the body in OpenPose's order of 18
BODY, FEET, FACE = slice(0, 18), slice(18, 24), slice(24, 92)
LEFT_HAND, RIGHT_HAND = slice(92, 113), slice(113, 134)
NOSE, NECK = 0, 1
COCO_BODY = slice(0, 17)  # of the 133

_SHOULDERS = (5, 6)  # of the 133
# Of the 133 and the neck behind them: nose, neck, right arm, left arm, right leg, left leg, eyes, ears; then the rest.
_OPENPOSE = (0, NUM_WHOLEBODY, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, *range(17, NUM_WHOLEBODY))

CONFIDENCE = 0.3  # a key point with a larger score is visible; the default of every `confidence` of this package


@dataclass
class People:
    """The people of one picture.

    Attributes:
        boxes: (N, 4), x_min, y_min, x_max, y_max in pixels.
        keypoints: (N, K, 2), x and y in pixels; K is 133 (raw) or 134 (OpenPose's order).
        scores: (N, K), 0 to a little above 1.
        detected: whether the boxes come from the detector; else the one box is the whole picture.
    """

    boxes: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    detected: bool = True

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, kept: slice | np.ndarray) -> "People":
        """Some of them: a slice, indices, or a mask (N,)."""
        return People(self.boxes[kept], self.keypoints[kept], self.scores[kept], self.detected)

    def scaled(self, scale: np.ndarray) -> "People":
        """The same people in another unit: their x and y times `scale`, (2,)."""
        return People(self.boxes * np.tile(scale, 2), self.keypoints * scale, self.scores, self.detected)

    def openpose(self, confidence: float = CONFIDENCE) -> "People":
        """The same people with 134 key points each: see `to_openpose`."""
        return People(self.boxes, *to_openpose(self.keypoints, self.scores, confidence), self.detected)


def to_openpose(
    keypoints: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Insert the neck, midway between the shoulders, and put the body in OpenPose's order.

    Of key points (N, 133, 2) and scores (N, 133): (N, 134, 2) and (N, 134), float64. The neck's score is 1 where both
    shoulders are visible, else 0.
    """
    neck = keypoints[:, _SHOULDERS].mean(axis=1, keepdims=True)
    neck_score = (scores[:, _SHOULDERS] > confidence).all(axis=1, keepdims=True)
    points, all_scores = (np.hstack(parts).astype(float) for parts in ((keypoints, neck), (scores, neck_score)))
    return points.take(_OPENPOSE, axis=1), all_scores.take(_OPENPOSE, axis=1)
