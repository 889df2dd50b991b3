"""Whole-body key points of a person in a box, by RTMPose's SimCC heads (arXiv 2303.07399) as DWPose trained them."""

from pathlib import Path

import cv2
import numpy as np

from DWPose.keypoints import NUM_WHOLEBODY
from DWPose.sessions import check_shapes, open_session

MEAN_RGB, STD_RGB = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
BOX_PADDING = 1.25
SPLIT = 2  # SimCC bins a pixel
LARGEST_BATCH = 8  # boxes


class PoseEstimator:
    """Finds 133 key points a person with `dw-ll_ucoco_384.onnx`, or another network of the same inputs and outputs.

    Input (n, 3, h, w), outputs simcc_x (n, 133, 2w) and simcc_y (n, 133, 2h). Where n is free, the boxes of a picture
    run in batches. Arguments and errors are those of `open_session`; InputError also for another network.
    """

    def __init__(self, path: str | Path, device: str = "auto"):
        self.session = open_session(path, device)
        tensor, outputs = self.session.get_inputs()[0], self.session.get_outputs()
        shapes = {"input": tensor.shape} | {output.name: output.shape for output in outputs}
        simcc = {"simcc_x", "simcc_y"} <= shapes.keys() and len(tensor.shape) == 4
        sizes = zip(tensor.shape[-2:] if simcc else (None, None), (384, 288), strict=True)
        self.height, self.width = (size if isinstance(size, int) else released for size, released in sizes)
        expected = {
            "input": (1, 3, self.height, self.width),
            "simcc_x": (1, NUM_WHOLEBODY, SPLIT * self.width),
            "simcc_y": (1, NUM_WHOLEBODY, SPLIT * self.height),
        }
        check_shapes(path, shapes, expected)
        self.input_name = tensor.name
        self.batch_size = 1 if any(shape[0] == 1 for shape in shapes.values()) else LARGEST_BATCH

    def __call__(self, image_rgb: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Key points of the people in boxes, (N, 4) x_min, y_min, x_max, y_max, of a picture, (H, W, 3) uint8.

        Returns:
            Key points (N, 133, 2), float64, pixels of the picture; scores (N, 133), float32, at times above 1.
        """
        if not len(boxes):
            return np.empty((0, NUM_WHOLEBODY, 2)), np.empty((0, NUM_WHOLEBODY), np.float32)
        boxes = np.asarray(boxes, float)
        centres, (widths, heights) = (boxes[:, :2] + boxes[:, 2:]) / 2, ((boxes[:, 2:] - boxes[:, :2]) * BOX_PADDING).T
        aspect = self.width / self.height
        extents = np.stack([np.maximum(widths, heights * aspect), np.maximum(heights, widths / aspect)], axis=1)
        crops = np.stack([self._crop(image_rgb, *region) for region in zip(centres, extents, strict=True)])
        decoded = []
        for start in range(0, len(crops), self.batch_size):
            batch = {self.input_name: crops[start : start + self.batch_size]}
            decoded.append(decode_simcc(*self.session.run(["simcc_x", "simcc_y"], batch)))
        places, scores = (np.concatenate(parts) for parts in zip(*decoded, strict=True))  # (N, 133, 2), (N, 133)
        keypoints = places / (self.width, self.height) * extents[:, None] + centres[:, None] - extents[:, None] / 2
        return keypoints, scores

    def _crop(self, image_rgb: np.ndarray, centre: np.ndarray, extent: np.ndarray) -> np.ndarray:
        """The region of the picture at the network's size, normalised: (3, h, w) float32."""
        size = np.array([self.width, self.height])
        warp = cv2.getAffineTransform(_corner(centre, extent[0]), _corner(size / 2, self.width))
        pixels = cv2.warpAffine(image_rgb, warp, (self.width, self.height), flags=cv2.INTER_LINEAR)
        return ((pixels - MEAN_RGB) / STD_RGB).transpose(2, 0, 1).astype(np.float32)


def _corner(centre: np.ndarray, width: float) -> np.ndarray:
    """Centre, top middle and top left of a square: three points that fix an affine map, (3, 2) float32."""
    middle, top = centre.astype(np.float32), (centre - (0, width / 2)).astype(np.float32)
    return np.stack([middle, top, top - (middle[1] - top[1], 0)]).astype(np.float32)


def decode_simcc(simcc_x: np.ndarray, simcc_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and scores from SimCC's two classifications (arXiv 2107.03332), (N, K, 2w) and (N, K, 2h).

    Returns:
        Places (N, K, 2), x and y in pixels of the w × h crop, (−1, −1) bins where nothing was found; scores (N, K), the
        smaller of the two maxima.
    """
    bins = np.stack([simcc_x.argmax(axis=-1), simcc_y.argmax(axis=-1)], axis=-1).astype(float)
    scores = np.minimum(simcc_x.max(axis=-1), simcc_y.max(axis=-1))
    bins[scores <= 0] = -1
    return bins / SPLIT, scores
