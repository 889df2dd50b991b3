"""People in a picture, by YOLOX (arXiv 2107.08430)."""

from pathlib import Path

import cv2
import numpy as np

from DWPose.sessions import check_shapes, open_session

STRIDES = (8, 16, 32)
PADDING = 114  # grey level right of and below the picture
NUM_CLASSES, PERSON = 80, 0  # COCO's
CANDIDATE_SCORE, PERSON_SCORE = 0.1, 0.3
OVERLAP = 0.45  # intersection over union above which the weaker box is dropped


class PersonDetector:
    """Finds people with `yolox_l.onnx`, or another YOLOX: input (1, 3, S, S), output (1, cells, 85).

    Arguments and errors are those of `open_session`; InputError also for another network.
    """

    def __init__(self, path: str | Path, device: str = "auto"):
        self.session = open_session(path, device)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        height, width = inputs[0].shape[2:] if len(inputs[0].shape) == 4 else (None, None)
        self.side = width if isinstance(width, int) and width == height else 640
        self.grid, self.strides = _grid(self.side)
        shapes = {"input": inputs[0].shape} | {f"output {k}": tensor.shape for k, tensor in enumerate(outputs)}
        expected = {"input": (1, 3, self.side, self.side), "output 0": (1, len(self.grid), 5 + NUM_CLASSES)}
        check_shapes(path, shapes, expected)
        self.input_name = inputs[0].name

    def __call__(self, image_rgb: np.ndarray) -> np.ndarray:
        """Boxes of the people in a picture, (H, W, 3) uint8: (N, 4) x_min, y_min, x_max, y_max, the surest first."""
        height, width = image_rgb.shape[:2]
        ratio = min(self.side / height, self.side / width)
        resized = cv2.resize(image_rgb, (max(1, int(width * ratio)), max(1, int(height * ratio))))
        square = np.full((self.side, self.side, 3), PADDING, np.uint8)
        square[: resized.shape[0], : resized.shape[1]] = resized
        batch = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)  # (1, 3, S, S)
        output = self.session.run(None, {self.input_name: batch})[0][0]  # (cells, 85)
        return self._people(output, ratio)

    def _people(self, output: np.ndarray, ratio: float) -> np.ndarray:
        scores = output[:, 4] * output[:, 5 + PERSON]
        candidates = scores > CANDIDATE_SCORE
        output, scores, strides = output[candidates], scores[candidates], self.strides[candidates]
        centres = (output[:, :2] + self.grid[candidates]) * strides
        sizes = np.exp(output[:, 2:4]) * strides
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) / ratio
        kept = suppress(boxes, scores)
        return boxes[kept[scores[kept] > PERSON_SCORE]]


def suppress(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: the indices of the boxes (N, 4) to keep, the best score first.

    Pixels are counted inclusively: a box from 3 to 5 is 3 wide.
    """
    order = scores.argsort()[::-1]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    kept = []
    while order.size:
        best, others = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = np.prod(np.maximum(0, high - low + 1), axis=1)
        order = others[shared / (areas[best] + areas[others] - shared) <= OVERLAP]
    return np.array(kept, int)


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each cell of the output: its column and row (cells, 2), and its stride in pixels (cells, 1)."""
    counts = [side // stride for stride in STRIDES]
    cells = np.concatenate([np.indices((count, count))[::-1].reshape(2, -1).T for count in counts])
    strides = np.repeat(STRIDES, np.square(counts))[:, None]
    return cells.astype(np.float32), strides.astype(np.float32)
