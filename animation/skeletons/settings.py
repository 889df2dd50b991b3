"""The settings of a skeleton extraction, checked at the edge."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from animation.errors import InputError
from animation.frames import load_photo
from animation.video import FolderFrames, VideoFrames
from animation.writing import check_writable
from DWPose.alignment import ALIGNMENTS
from DWPose.keypoints import CONFIDENCE
from DWPose.recording import Recording, load_recording
from DWPose.sessions import DEVICES, find_model
from DWPose.smoothing import MISSING
from DWPose.tracking import CHOICES

LARGEST_SIDE, LONGEST_SHAPE = 8192, 8  # pixels; times the shorter side
SMALLEST_CANVAS = 64  # pixels


@dataclass
class SkeletonInputs:
    """What an extraction reads before any network: the photo, the driver, earlier key points; each may be None."""

    photo: Image.Image | None
    driver: VideoFrames | FolderFrames | None
    keypoints: Recording | None
    size: tuple[int, int] | None


@dataclass(kw_only=True)
class SkeletonSettings:
    """An extraction's settings, named as the flags of `skeleton_extraction.py`, whose help explains them."""

    poses_folder_path: str
    ref_image_path: str | None = None
    target_image_folder_path: str | None = None
    target_video: str | None = None
    start: float | None = None
    end: float | None = None
    stride: int = 1
    fps: float | None = None
    keypoints: str | None = None

    detector_path: str = "checkpoints/DWPose/yolox_l.onnx"
    pose_path: str = "checkpoints/DWPose/dw-ll_ucoco_384.onnx"
    device: str = "auto"

    alignment: str = "affine"
    person: str = "track"
    missing: str = "interpolate"
    smooth: bool = False
    confidence: float = CONFIDENCE
    canvas: int | None = None
    size: str | None = None
    preview: str | None = None

    def read_inputs(self) -> SkeletonInputs:
        """Check everything that can be checked without a network, and read the inputs.

        Raises:
            InputError, PoseError: a setting is out of range, an input is missing or unreadable, or the output not
                writable.
        """
        self.check_choices()
        size = self._parse_size()
        for field in fields(self):
            if getattr(self, field.name) == "":
                raise InputError(f"--{field.name} is empty; give a value or leave it out")
        keypoints = None if self.keypoints is None else load_recording(self.keypoints)
        photo = None if self.ref_image_path is None else load_photo(self.ref_image_path)
        driver = self._open_driver()
        if keypoints is None and driver is None:
            raise InputError(
                "nothing to take skeletons from; give --target_image_folder_path, --target_video or --keypoints"
            )
        if self.alignment != "none" and photo is None and (keypoints is None or keypoints.photo is None):
            raise InputError(
                f"--alignment {self.alignment} needs the photo; give --ref_image_path, or --alignment none to keep the "
                "driver's own proportions"
            )
        if keypoints is not None and driver is not None and driver.size != keypoints.video_size:
            raise InputError(f"the driver's frames are {driver.size[0]}×{driver.size[1]} pixels and those of "
                             f"{self.keypoints} were {keypoints.video_size[0]}×{keypoints.video_size[1]}; give the "
                             "driver that the key points came from, or leave it out")  # fmt: skip
        whole = (self.start, self.end, self.stride, self.fps) == (None, None, 1, None)
        if keypoints is not None and driver is None and not whole:
            raise InputError(
                "--start, --end, --stride and --fps say which part of a driver is taken, and --keypoints holds one "
                "already; leave them out, or extract again"
            )
        if keypoints is None:
            find_model(self.detector_path)
            find_model(self.pose_path)
        self._check_outputs()
        return SkeletonInputs(photo, driver, keypoints, size)

    def check_choices(self) -> None:
        """Raise InputError for a choice that is unknown or a number out of its range."""
        choices = {"alignment": ALIGNMENTS, "missing": MISSING, "device": DEVICES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)!r} is unknown; give one of {', '.join(known)}")
        if self.person not in CHOICES and not str(self.person).isdecimal():
            raise InputError(
                f"--person {self.person!r} is unknown; give one of {', '.join(CHOICES)}, or a number from 0"
            )
        if not 0 <= self.confidence < 1:
            raise InputError(f"--confidence {self.confidence} is out of range; give 0 or more and less than 1")
        if self.canvas is not None and not SMALLEST_CANVAS <= self.canvas <= LARGEST_SIDE:
            raise InputError(f"--canvas {self.canvas} is out of range; give {SMALLEST_CANVAS} to {LARGEST_SIDE} pixels")

    def _parse_size(self) -> tuple[int, int] | None:
        if self.size is None:
            return None
        match = re.fullmatch(r"([0-9]+)[x×X]([0-9]+)", self.size)
        size = tuple(map(int, match.groups())) if match else (0, 0)
        if not all(16 <= side <= LARGEST_SIDE for side in size) or max(size) > LONGEST_SHAPE * min(size):
            raise InputError(
                f"--size {self.size!r} is not a size; give width x height in pixels, such as 576x1024, each from 16 to "
                f"{LARGEST_SIDE}, one at most {LONGEST_SHAPE} times the other"
            )
        return size

    def _open_driver(self) -> VideoFrames | FolderFrames | None:
        if self.target_video is not None and self.target_image_folder_path is not None:
            raise InputError("both --target_video and --target_image_folder_path are given; give one of them")
        part = self.start, self.end, self.stride, self.fps
        if self.target_video is not None:
            return VideoFrames(self.target_video, *part)
        if self.target_image_folder_path is not None:
            return FolderFrames(self.target_image_folder_path, *part)
        return None

    def _check_outputs(self) -> None:
        folder = Path(self.poses_folder_path)
        check_writable(folder)
        source = self.target_image_folder_path
        if source is not None and folder.resolve() == Path(source).resolve():
            raise InputError(f"--poses_folder_path {folder} is the driver's own folder, whose frames would be lost; "
                             "give another")  # fmt: skip
        if self.preview is not None:
            if Path(self.preview).suffix.lower() != ".mp4" or Path(self.preview).is_dir():
                raise InputError(f"--preview {self.preview} is not an MP4 file's name; give one that ends with .mp4")
            check_writable(Path(self.preview).parent)
