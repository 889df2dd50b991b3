"""The settings of a skeleton extraction, checked at the edge."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from animation.errors import InputError
from animation.flags import Settings, flag
from animation.media.images import load_photo, read_size
from animation.media.video import FolderFrames, VideoFrames
from animation.media.writing import check_writable
from DWPose.alignment import ALIGNMENTS
from DWPose.drawing import SHORT_SIDE
from DWPose.keypoints import CONFIDENCE
from DWPose.outliers import OUTLIERS
from DWPose.recording import Recording, load_recording
from DWPose.sessions import DEVICES, find_model
from DWPose.smoothing import MISSING
from DWPose.tracking import CHOICES

LARGEST_SIDE, LONGEST_SHAPE = 8192, 8  # pixels; times the shorter side

DriverFrames = VideoFrames | FolderFrames


@dataclass
class SkeletonInputs:
    """What an extraction reads before any network: the photo, the driver, earlier key points; each may be None."""

    photo: Image.Image | None
    driver: DriverFrames | None
    keypoints: Recording | None
    size: tuple[int, int] | None


@dataclass(kw_only=True)
class SkeletonChoices(Settings):
    """How skeletons are chosen, fitted to the photo and drawn."""

    TITLE: ClassVar = "skeletons"

    alignment: str = flag(
        "affine",
        "affine: one scale and offset an axis, corrected for the driver's aspect ratio; affine_legacy: the released "
        "formula, uncorrected; limb: the photo's own bone lengths with the driver's joint angles; none",
        choices=ALIGNMENTS,
    )
    person: str = flag(
        "track",
        "track: the one who fills most of the picture, followed through the video; largest of each frame; N: that one "
        "from the left, from 0, followed; all: everyone is drawn, and, as the original does, whatever the pose "
        "estimator sees where the detector finds nobody",
        metavar="{track,largest,N,all}",
    )
    missing: str = flag(
        "interpolate",
        "what to draw where nobody is found: between the frames around, the frame before, or nothing",
        choices=MISSING,
    )
    smooth: bool = flag(False, "smooth trembling key points (One-Euro filter)")
    outliers: str = flag(
        "keep", "joints that jump out of their motion: kept, or dropped and filled as --missing says", choices=OUTLIERS
    )
    widen_boxes: bool = flag(
        False, "with --person track, look for a person's limbs also where they were a frame before, outside of the box"
    )
    confidence: float = flag(CONFIDENCE, "key points with larger scores are visible", least=0, below=1)
    canvas: int | None = flag(
        None,
        "short side of what skeletons are drawn on before they are resized; strokes are so many of its pixels wide, so "
        f"models which work at small sizes want a smaller one; left out, {SHORT_SIDE}, as the released weights were "
        "trained with, or what the small checkpoint recommends",
        least=64,
        most=LARGEST_SIDE,
        metavar="PIXELS",
    )

    def check(self) -> None:
        """Raise InputError for a choice that is unknown or a number out of its range."""
        super().check()
        if self.person not in CHOICES and not self.person.isdecimal():
            known = ", ".join(CHOICES)
            raise InputError(f"--person {self.person!r} is unknown; give one of {known}, or a number from 0")


@dataclass(kw_only=True)
class SkeletonSettings(SkeletonChoices):
    """An extraction's settings, named as the flags of `skeleton_extraction.py`, whose help explains them."""

    target_image_folder_path: str | None = flag(
        None, "the driver's frames, in the order of the numbers in their names", metavar="DIR"
    )
    target_video: str | None = flag(None, "the driver as a video file instead", metavar="FILE")
    ref_image_path: str | None = flag(None, "the photo of the person; needed unless --alignment none", metavar="FILE")
    poses_folder_path: str = flag(help="where the skeletons go; made where missing", metavar="DIR")
    start: float | None = flag(None, "where in the driver to begin; left out, at 0", metavar="SECONDS")
    end: float | None = flag(None, "where to end; left out, with the driver", metavar="SECONDS")
    stride: int = flag(1, "take every N-th frame")
    fps: float | None = flag(
        None,
        "take a video's frames at this rate (left out, all of them); of a folder, the rate it was taken at (left out, "
        "30)",
    )
    keypoints: str | None = flag(
        None,
        "a keypoints.npz of an earlier run: draws from it and runs no network; a driver given beside it only appears "
        "in the preview",
        metavar="FILE",
    )
    preview: str | None = flag(None, "also write photo, driver and aligned skeleton side by side", metavar="FILE.mp4")
    size: str | None = flag(
        None, "of the skeletons; left out, the photo's, or the driver's own with --alignment none", metavar="WxH"
    )
    detector_path: str | None = flag(
        None, "the person detector, YOLOX; left out, the released one where it is, else the small one", metavar="FILE"
    )
    pose_path: str | None = flag(None, "the pose estimator, DWPose; left out, likewise", metavar="FILE")
    device: str = flag("auto", "auto: CUDA where onnxruntime can", choices=DEVICES)

    def read_inputs(self) -> SkeletonInputs:
        """Check everything that can be checked without a network, and read the inputs.

        Raises:
            InputError: a setting is out of range, an input is missing or unreadable, or the output not writable.
        """
        self.check()
        size = self._parse_size()
        keypoints = None if self.keypoints is None else load_recording(self.keypoints)
        photo = None if self.ref_image_path is None else load_photo(self.ref_image_path)
        driver = self._open_driver()
        if keypoints is None:
            if driver is None:
                flags = "--target_image_folder_path, --target_video or --keypoints"
                raise InputError(f"nothing to take skeletons from; give {flags}")
            find_model(self.detector_path)
            find_model(self.pose_path)
        elif driver is None:
            if (self.start, self.end, self.stride, self.fps) != (None, None, 1, None):
                raise InputError(
                    "--start, --end, --stride and --fps say which part of a driver is taken, and --keypoints holds one "
                    "already; leave them out, or extract again"
                )
        elif driver.size != keypoints.video_size:
            own, other = (f"{width}×{height}" for width, height in (driver.size, keypoints.video_size))
            raise InputError(
                f"the driver's frames are {own} pixels and those of {self.keypoints} were {other}; give the driver "
                "that the key points came from, or leave it out"
            )
        if self.alignment != "none" and photo is None and (keypoints is None or keypoints.photo is None):
            raise InputError(
                f"--alignment {self.alignment} needs the photo; give --ref_image_path, or --alignment none to keep the "
                "driver's own proportions"
            )
        self._check_outputs()
        return SkeletonInputs(photo, driver, keypoints, size)

    def _parse_size(self) -> tuple[int, int] | None:
        if self.size is None:
            return None
        size = read_size(self.size)
        if not 16 <= min(size) <= max(size) <= min(LARGEST_SIDE, LONGEST_SHAPE * min(size)):
            raise InputError(
                f"--size {self.size!r} is not a size; give width x height in pixels, such as 576x1024, each from 16 to "
                f"{LARGEST_SIDE}, one at most {LONGEST_SHAPE} times the other"
            )
        return size

    def _open_driver(self) -> DriverFrames | None:
        part = self.start, self.end, self.stride, self.fps
        if self.target_video is None:
            folder = self.target_image_folder_path
            return None if folder is None else FolderFrames(folder, *part)
        if self.target_image_folder_path is not None:
            raise InputError("both --target_video and --target_image_folder_path are given; give one of them")
        return VideoFrames(self.target_video, *part)

    def _check_outputs(self) -> None:
        folder, source = Path(self.poses_folder_path), self.target_image_folder_path
        check_writable(folder)
        if source is not None and folder.resolve() == Path(source).resolve():
            raise InputError(
                f"--poses_folder_path {folder} is the driver's own folder, whose frames would be lost; give another"
            )
        if self.preview is not None:
            if Path(self.preview).suffix.lower() != ".mp4" or Path(self.preview).is_dir():
                raise InputError(f"--preview {self.preview} is not an MP4 file's name; give one that ends with .mp4")
            check_writable(Path(self.preview).parent)
