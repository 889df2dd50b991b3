"""Face masks: for each picture one of its size (at most 4096 pixels), white where a face is, on black."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from animation.cli import listed
from animation.errors import InputError
from animation.face.detection import POSE, FaceFinder, FaceModels, find_face_models
from animation.files import write_whole
from animation.flags import flag
from animation.media.images import list_pictures, load_photo
from animation.media.video import VideoFrames
from animation.media.writing import check_writable
from animation.networks import ANEW, Networks

logger = logging.getLogger(__name__)

SHAPES = ("box", "oval")
NO_FACE = {"black": 0, "white": 255}  # what a picture without a face gets
WIDEST_FEATHER = 1000  # pixels
Pictures = list[Path] | VideoFrames


@dataclass(kw_only=True)
class FaceMaskSettings(FaceModels):
    """An extraction's settings, named as the flags of `face_mask_extraction.py`, whose help explains them."""

    image_folder: str | None = flag(None, "PNG or JPEG pictures", metavar="DIR")
    video: str | None = flag(None, "a video file instead; its masks are frame_0.png …", metavar="FILE")
    masks_folder: str | None = flag(
        None, "where the masks go; left out, faces beside the folder or the video", metavar="DIR"
    )
    shape: str = flag("box", "the detector's box, or the oval within it", choices=SHAPES)
    feather: float = flag(
        0.0, "over which the edge fades from white to black", least=0, most=WIDEST_FEATHER, metavar="PIXELS"
    )
    no_face: str = flag(
        "black",
        "the mask of a picture without a face: black, no face; white, all of it, which is how the original's training "
        "weighs a frame that is unknown",
        choices=tuple(NO_FACE),
    )
    device: str = flag("cpu", "cuda: where onnxruntime can", choices=("cpu", "cuda"))

    def read_inputs(self) -> tuple[Pictures, Path]:
        """Check everything that can be checked without a network; return what to look at and the masks' folder.

        Raises:
            InputError: a setting is out of range, an input is missing, or the output not writable.
        """
        self.check()
        if (self.image_folder is None) == (self.video is None):
            given = "neither is" if self.video is None else "both are"
            raise InputError(f"give one of --image_folder and --video; {given} given")
        source = Path(self.image_folder or self.video).absolute()
        name = "faces" if self.video is None else f"{source.stem}_faces"
        folder = source.with_name(name) if self.masks_folder is None else Path(self.masks_folder)
        if folder.resolve() == source.resolve():
            raise InputError(
                f"--masks_folder {folder} is the pictures' own folder, where masks would take their names; give another"
            )
        pictures = VideoFrames(source) if self.image_folder is None else list_pictures(source)
        if not pictures:
            raise InputError(f"{source}: no PNG or JPEG pictures there; give a folder of them")
        find_face_models(self.face_models)
        check_writable(folder)
        return pictures, folder


def draw_mask(
    height: int, width: int, boxes: Sequence[Sequence[float] | np.ndarray], shape: str = "box", feather: float = 0
) -> np.ndarray:
    """White faces on black, (height, width) uint8, 0 or 255 where nothing fades.

    Args:
        boxes: x_min, y_min, x_max, y_max of each face, pixels; what lies outside the picture is cut off.
        shape: `box`, or `oval` for the ellipse within it.
        feather: pixels over which the edge fades, half of them inside, at most half of the smallest face; half-way grey
            lies on the edge itself.
    """
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        left, top, right, bottom = (round(float(edge)) for edge in box)
        if shape == "oval":
            centre, axes = ((left + right) // 2, (top + bottom) // 2), ((right - left) // 2, (bottom - top) // 2)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, cv2.FILLED)
        else:
            cv2.rectangle(mask, (left, top), (right, bottom), 255, cv2.FILLED)
    if boxes:  # a wider edge would fade a small face away
        feather = min(feather, *(float(min(box[2] - box[0], box[3] - box[1])) / 2 for box in boxes))
    if feather > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), feather / 4, borderType=cv2.BORDER_REPLICATE)
    return mask


def extract_masks(settings: FaceMaskSettings, pictures: Pictures, folder: Path, networks: Networks = ANEW) -> None:
    """Find the faces of all pictures and write their masks, each whole or not at all; what is there already stays.

    Raises:
        InputError: a network or a picture is damaged; the masks before it stay, and the same command goes on there.
    """
    finder = networks.open(FaceFinder, settings.face_models, settings.dwpose_models, settings.device, networks)
    if not finder.dwpose_paths:
        missing = "DWPose's networks are not there; faces that the detector does not find stay unfound"
        logger.info(f"{settings.dwpose_models}: {missing}")
    written = kept = 0
    by_pose, without_face = [], []  # names
    total = len(pictures) if isinstance(pictures, list) else pictures.estimated_length
    for i, picture in enumerate(tqdm(pictures, total=total, desc="finding faces", unit="frame")):
        path = folder / (picture.name if isinstance(picture, Path) else f"frame_{i}.png")
        if path.exists():
            kept += 1
            continue
        pixels = np.asarray(load_photo(picture) if isinstance(picture, Path) else picture)
        height, width = pixels.shape[:2]
        faces, way = finder(pixels)
        if faces:
            mask = draw_mask(height, width, [face.box for face in faces], settings.shape, settings.feather)
        else:
            mask = np.full((height, width), NO_FACE[settings.no_face], np.uint8)
            without_face.append(path.name)
        if way == POSE:
            by_pose.append(path.name)
        write_whole(path, functools.partial(Image.fromarray(mask).save, quality=100))  # of JPEG
        written += 1
    logger.info(f"{written} masks written to {folder}, {kept} that were there kept")
    if by_pose:
        logger.info(f"{len(by_pose)} faces were found by {POSE} alone: {listed(by_pose)}")
    if without_face:
        logger.warning(
            f"no face found in {len(without_face)} of {written} pictures, whose masks are {settings.no_face}: "
            f"{listed(without_face)}"
        )
