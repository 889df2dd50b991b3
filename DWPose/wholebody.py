"""Detector and pose estimator together: a picture in, its people out."""

from pathlib import Path

import numpy as np

from DWPose.detector import PersonDetector
from DWPose.keypoints import People
from DWPose.pose import PoseEstimator
from DWPose.tracking import widen

MODEL_FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")  # the released detector and pose estimator


class Wholebody:
    """DWPose: the key points of all people in a picture.

    Args:
        detector_path, pose_path: the ONNX files of `PersonDetector` and `PoseEstimator`.
        device: `auto`, `cuda` or `cpu`.

    Raises:
        InputError: a file is missing, damaged, or another network.
    """

    def __init__(self, detector_path: str | Path, pose_path: str | Path, device: str = "auto"):
        self.detector = PersonDetector(detector_path, device)
        self.estimator = PoseEstimator(pose_path, device)

    def __call__(self, image_rgb: np.ndarray) -> People:
        """The people in a picture, (H, W, 3) uint8, in the detector's order, with 134 key points each."""
        return self.estimate(image_rgb).openpose()

    def estimate(self, image_rgb: np.ndarray, boxes: np.ndarray | None = None, before: People | None = None) -> People:
        """The people with their raw 133 key points, where nobody is detected one in the whole picture.

        Args:
            image_rgb: (H, W, 3) uint8.
            boxes: (N, 4) in pixels, what the detector found; None to let it.
            before: the people of the frame before: key points are looked for in boxes that hold their limbs too; None
                for the detector's boxes alone, as released.
        """
        if boxes is None:
            boxes = self.detector(image_rgb)
        if not len(boxes):
            whole = np.array([[0, 0, *image_rgb.shape[1::-1]]], float)
            return People(whole, *self.estimator(image_rgb, whole), detected=False)
        regions = boxes if before is None else widen(boxes, before)
        return People(boxes, *self.estimator(image_rgb, regions))
