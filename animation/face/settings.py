"""The settings of an inference run with face optimisation, checked at the edge. Imports no torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.face.boxes import (
    FaceBox,
    bounds_of_points,
    box_from_mask,
    boxes_from_masks,
    boxes_from_skeletons,
    clip_box,
)
from animation.face.detection import RECOGNISER, FaceFinder, find_face_models
from animation.face.embedding import choose_face
from animation.files import describe_file
from animation.frames import FrameFolder, load_photo
from animation.settings import InferenceSettings, Inputs
from animation.skeletons.estimation import KEYPOINTS_FILE
from DWPose.arrangement import photo_person
from DWPose.errors import PoseError
from DWPose.keypoints import FACE
from DWPose.recording import Recording, load_recording

logger = logging.getLogger(__name__)

EXTRACTOR = "checkpoints/Animation/glintr100_torch.pth"


@dataclass
class FaceInputs(Inputs):
    """What a run with face optimisation reads before any model.

    Attributes:
        face_boxes: the face's pixels in each output frame, or None.
        photo_face: the photo's face, cut out of it.
        extractor_path: ArcFace's weights.
        face_files: what the boxes came from, for the report.
    """

    face_boxes: list[FaceBox | None]
    photo_face: Image.Image
    extractor_path: Path
    face_files: list[Path]


@dataclass(kw_only=True)
class FaceOptimizationSettings(InferenceSettings):
    """A run's settings, named as the flags of `inference_op.py`, whose help explains them."""

    validation_image_mask: str | None = None
    validation_control_mask_folder: str | None = None
    keypoints: str | None = None
    face_embedding_extractor_weight_path: str = EXTRACTOR
    num_optimization_iter: int = 3
    start_refine_step: int = 0
    end_refine_step: int = 20
    hjb_crop: int | None = None
    max_frame_num: int | None = None
    batch_frames: int | None = None

    def check_ranges(self) -> None:
        """Raise InputError for a number out of its range."""
        super().check_ranges()
        least = {"num_optimization_iter": 1, "start_refine_step": 0, "hjb_crop": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"--{name} {value} is below {minimum}; give {minimum} or more")
        if self.end_refine_step < self.start_refine_step:
            raise InputError(f"--end_refine_step {self.end_refine_step} is before --start_refine_step "
                             f"{self.start_refine_step}; give {self.start_refine_step} or more, or run "
                             "inference_basic.py, which does not refine")  # fmt: skip
        if self.start_refine_step >= self.num_inference_steps:
            raise InputError(
                f"--start_refine_step {self.start_refine_step} is after the last of {self.num_inference_steps} steps, "
                f"counted from 0; give at most {self.num_inference_steps - 1}"
            )

    def memory_remedies(self) -> list[str]:
        """What else would lower the memory need: decoding the faces alone."""
        return [] if self.hjb_crop is not None else ["--hjb_crop"]

    def read_inputs(self) -> FaceInputs:
        """Check everything that can be checked without torch, read the inputs, and find the faces.

        Raises:
            InputError, PoseError: as `InferenceSettings.read_inputs`, or no face is known in the frames or in the
                photo, or there are no weights of the extractor.
        """
        inputs = super().read_inputs()
        extractor_path = self._find_extractor()
        recording, recording_path = self._open_recording()
        boxes, files = self._find_frame_boxes(inputs.poses, recording, recording_path)
        photo_face, photo_files = self._find_photo_face(inputs.photo, recording, recording_path)
        return FaceInputs(**vars(inputs), face_boxes=boxes, photo_face=photo_face, extractor_path=extractor_path,
                          face_files=list(dict.fromkeys([*files, *photo_files])))  # fmt: skip

    def _find_extractor(self) -> Path:
        """ArcFace's weights: the file that is named; where that is the default and missing, antelopev2's ONNX file."""
        path = Path(self.face_embedding_extractor_weight_path)
        twins = [path, path.with_suffix(".safetensors"), path.with_suffix(".pth")]
        found = next((twin for twin in twins if twin.is_file()), None)
        if found is not None:
            return found
        if path == Path(EXTRACTOR):
            try:
                onnx = find_face_models(self.face_models, (RECOGNISER,)) / RECOGNISER
            except InputError:
                raise InputError(
                    f"{path}: no such file, and {RECOGNISER} is not in {self.face_models} either; download one of them "
                    "(FrancisRing/StableAnimator on the Hugging Face hub), or give "
                    "--face_embedding_extractor_weight_path"
                ) from None
            logger.info("%s is not there: ArcFace's weights come from %s", path, onnx)
            return onnx
        raise InputError(f"{path}: no such file; give ArcFace's weights, glintr100_torch.pth or glintr100.onnx")

    def _open_recording(self) -> tuple[Recording | None, Path]:
        """The key points that the skeletons were drawn from, where they are needed and there."""
        path = Path(self.keypoints or Path(self.validation_control_folder) / KEYPOINTS_FILE)
        needed = self.validation_control_mask_folder is None or self.validation_image_mask is None
        return (load_recording(path) if needed and (self.keypoints or path.is_file()) else None), path

    def _find_frame_boxes(
        self, poses: FrameFolder, recording: Recording | None, recording_path: Path
    ) -> tuple[list[FaceBox | None], list[Path]]:
        """The face's box in each output frame, from masks, or else from the skeletons' key points."""
        folder = self.validation_control_mask_folder
        if folder is not None:
            masks = FrameFolder(folder, self.max_frames)
            _check_count(folder, len(masks), poses)
            boxes, source, files = boxes_from_masks(masks, self.height, self.width), folder, masks.paths
            empty = "their masks are black all over, or white all over"
        elif recording is not None:
            if recording.drawn is None:
                raise InputError(f"{recording_path}: holds no aligned skeletons; run skeleton_extraction.py again")
            if recording.drawn.num_frames < len(poses) or self.max_frames is None:
                _check_count(recording_path, recording.drawn.num_frames, poses)
            boxes = boxes_from_skeletons(recording.drawn, len(poses), self.height, self.width)
            source, files, empty = recording_path, [recording_path], "their skeletons show too few of a face's points"
        else:
            raise InputError(
                f"where the faces are is unknown: {recording_path} is not there, and --validation_control_mask_folder "
                "not given; extract the skeletons with skeleton_extraction.py, or masks with face_mask_extraction.py"
            )
        without = [i for i, box in enumerate(boxes) if box is None]
        if len(without) == len(boxes):
            raise InputError(
                f"{source}: none of the {len(boxes)} frames has a face ({empty}), so there is nothing to optimise; "
                "make them again, or run inference_basic.py"
            )
        if without:
            logger.warning("%s: %d of %d frames have no face (%s) and take no part in the optimisation: %s", source,
                           len(without), len(boxes), empty, _listed(without))  # fmt: skip
        return boxes, files

    def _find_photo_face(
        self, photo: Image.Image, recording: Recording | None, recording_path: Path
    ) -> tuple[Image.Image, list[Path]]:
        """The photo's face, from its mask, the key points of that photo, or insightface's detector."""
        width, height = photo.size
        box, files = None, []
        if self.validation_image_mask is not None:
            path = Path(self.validation_image_mask)
            box, files = box_from_mask(np.asarray(load_photo(path).convert("L")), height, width), [path]
            if box is None:
                raise InputError(f"{path}: the mask shows no face: it is black all over, or white all over; paint the "
                                 "face white on black, or leave it out")  # fmt: skip
        elif recording is not None and recording.sources.get("photo") == describe_file(Path(self.validation_image)):
            box, files = _box_of_person(recording, height, width), [recording_path]
        if box is None:
            box = self._detect_photo_face(photo)
        return photo.crop((box.x_min, box.y_min, box.x_max + 1, box.y_max + 1)), files

    def _detect_photo_face(self, photo: Image.Image) -> FaceBox:
        try:
            finder = FaceFinder(self.face_models, self.dwpose_models)
        except InputError as error:
            raise InputError(f"where the photo's face is is unknown: give --validation_image_mask ({error})") from None
        pixels = np.asarray(photo)
        faces, way = finder(pixels)
        if faces:
            left, top, right, bottom = choose_face(faces, self.face).box
            box = clip_box(top, bottom, left, right, *pixels.shape[:2])
            if box is not None:
                logger.info("the photo's face, which the frames are drawn towards, was found by %s", way)
                return box
        raise InputError(f"{self.validation_image}: no face was found in it, so the frames cannot be drawn towards "
                         "it; paint it white on a black --validation_image_mask")  # fmt: skip


def _check_count(source: object, count: int, poses: FrameFolder) -> None:
    if count != len(poses):
        raise InputError(f"{source}: faces of {count} frames, but there are {len(poses)} poses; make them from the "
                         "same frames")  # fmt: skip


def _box_of_person(recording: Recording, height: int, width: int) -> FaceBox | None:
    """The face of the photo's largest person, in pixels; None where nobody's face shows."""
    try:
        person = photo_person(recording)
    except PoseError:
        return None
    bounds = bounds_of_points(person.keypoints[0, FACE], person.scores[0, FACE])
    if bounds is None:
        return None
    left, top, right, bottom = bounds * (width, height, width, height)
    return clip_box(top, bottom, left, right, height, width)


def _listed(numbers: Sequence[int], most: int = 20) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
