"""The settings of an inference run with face optimisation, checked at the edge. Imports no torch."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from animation.cli import listed
from animation.errors import InputError
from animation.face.boxes import (
    MASK_THRESHOLD,
    SMALLEST_FACE,
    FaceBox,
    box_from_mask,
    boxes_from_masks,
    boxes_from_skeletons,
    clip_box,
    largest_face,
)
from animation.face.detection import RECOGNISER, FaceFinder, find_face_models
from animation.face.embedding import NO_FACE, choose_face
from animation.files import describe_file
from animation.flags import NOTHING, flag
from animation.media.images import FrameFolder, frame_number, load_photo, warn_if_stretched
from animation.networks import ANEW, Networks
from animation.settings import InferenceSettings, Inputs, Weights
from animation.skeletons.estimation import KEYPOINTS_FILE
from animation.weights.layout import find_file, set_of
from DWPose.arrangement import photo_person
from DWPose.recording import Recording, load_recording

logger = logging.getLogger(__name__)

NO_WHITE = f"black (below {MASK_THRESHOLD} of 255) or white all over, or its white is below {SMALLEST_FACE} pixels"
MASK_ADVICE = "are these the right pictures?"
CROP_MARGIN = 8  # latents, 64 pixels


@dataclass
class FaceInputs(Inputs):
    """What a run with face optimisation reads before any model.

    Attributes:
        face_boxes: the face's pixels in each output frame, or None.
        photo_face: the face that the frames' are drawn towards, cut out of its picture.
        extractor_path: ArcFace's weights.
        face_files: what the boxes came from, for the report.
    """

    face_boxes: list[FaceBox | None]
    photo_face: Image.Image
    extractor_path: Path
    face_files: list[Path]


@dataclass(kw_only=True)
class FaceOptimization(Weights):
    """How faces are optimised."""

    TITLE: ClassVar = "face optimisation"

    num_optimization_iter: int = flag(3, "gradient steps at each refined step", least=1)
    start_refine_step: int = flag(0, "the first denoising step that is refined, from 0", least=0)
    end_refine_step: int = flag(20, "the last one, itself included")
    hjb_crop: int | None = flag(
        None,
        "decode only the latents around the faces, with so many (8 pixels each; without a number "
        f"{CROP_MARGIN}) on each side: less time and memory, approximate",
        least=0,
        const=CROP_MARGIN,
        metavar="MARGIN",
    )
    face_resample: str = flag(
        "antialias",
        "how the photo's face is resized to 112×112 for the recogniser: antialias averages what it reduces, plain is "
        "bilinear like the frames' faces, as in the original",
        choices=("antialias", "plain"),
    )
    face_embedding_extractor_weight_path: str | None = flag(
        None,
        "ArcFace as .pth, .safetensors or .onnx; left out, glintr100_torch.pth of the checkpoint, or else "
        "glintr100.onnx of --face_models",
        metavar="FILE",
        affects=NOTHING,
    )

    def check_refined_steps(self, num_inference_steps: int) -> None:
        """Raise InputError where none of so many steps is refined."""
        if self.end_refine_step < self.start_refine_step:
            raise InputError(
                f"--end_refine_step {self.end_refine_step} is before --start_refine_step {self.start_refine_step}; "
                f"give {self.start_refine_step} or more, or run inference_basic.py, which does not refine"
            )
        if self.start_refine_step >= num_inference_steps:
            raise InputError(
                f"--start_refine_step {self.start_refine_step} is after the last of {num_inference_steps} steps, "
                f"counted from 0; give at most {num_inference_steps - 1}"
            )

    def find_extractor(self) -> Path:
        """ArcFace's weights: the file that is named, or of the checkpoint, or the ONNX file among the face models.

        Raises:
            InputError: there are none.
        """
        named = self.face_embedding_extractor_weight_path
        path = Path(named or set_of(self.unet_model_name_or_path).arcface)
        if found := find_file(path):
            return found
        if named is not None:
            raise InputError(f"{path}: no such file; give ArcFace's weights, glintr100_torch.pth or glintr100.onnx")
        try:
            onnx = find_face_models(self.face_models, (RECOGNISER,)) / RECOGNISER
        except InputError:
            raise InputError(
                f"{path}: no such file, and {RECOGNISER} is not in {self.face_models} either; download one of them "
                "(FrancisRing/StableAnimator on the Hugging Face hub), or give --face_embedding_extractor_weight_path"
            ) from None
        logger.info(f"{path} is not there: ArcFace's weights come from {onnx}")
        return onnx


@dataclass(kw_only=True)
class FaceOptimizationSettings(InferenceSettings, FaceOptimization):
    """A run's settings, named as the flags of `inference_op.py`, whose help explains them."""

    TITLE: ClassVar = "face optimisation"
    RETIRED: ClassVar = InferenceSettings.RETIRED | {
        "max_frame_num": "see --max_frames",
        "batch_frames": "see --decode_chunk_size",
    }

    validation_image_mask: str | None = flag(
        None,
        "the photo's face white on black; left out, it is taken from the key points or found by the face models",
        metavar="FILE",
    )
    validation_control_mask_folder: str | None = flag(
        None, "a mask of the face for each pose, white on black; left out, the key points tell", metavar="DIR"
    )
    keypoints: str | None = flag(
        None, "what the skeletons were drawn from; left out, keypoints.npz beside them", metavar="FILE.npz"
    )

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        super().check()
        self.check_refined_steps(self.num_inference_steps)
        if self.face_photo is not None and self.validation_image_mask is not None:
            raise InputError("--face_photo and --validation_image_mask name different faces; give one of them")

    def memory_remedies(self) -> list[str]:
        """What else would lower the memory need: decoding the faces alone."""
        return [] if self.hjb_crop is not None else ["--hjb_crop"]

    def read_inputs(self, networks: Networks = ANEW) -> FaceInputs:
        """Check everything that can be checked without torch, read the inputs, and find the faces.

        Raises:
            InputError: as the other runs', or no face is known in frames or photo, or the extractor has no weights.
        """
        inputs = super().read_inputs(networks)
        extractor_path = self.find_extractor()
        path = Path(self.keypoints or Path(self.validation_control_folder) / KEYPOINTS_FILE)
        needed = self.validation_control_mask_folder is None or not (self.validation_image_mask or self.face_photo)
        recording = load_recording(path) if self.keypoints or (needed and path.is_file()) else None
        boxes, files = self._find_frame_boxes(inputs.poses, recording, path)
        if inputs.face_photo is None:
            picture, (box, photo_files) = inputs.photo, self._find_photo_face(inputs.photo, recording, path, networks)
        else:
            picture, box, photo_files = inputs.face_photo, self._detect_face(inputs.face_photo, networks), []
            if box is None:
                raise InputError(f"--face_photo {self.face_photo}: {NO_FACE}")
        return FaceInputs(
            **vars(inputs),
            face_boxes=boxes,
            photo_face=picture.crop((box.x_min, box.y_min, box.x_max + 1, box.y_max + 1)),
            extractor_path=extractor_path,
            face_files=list(dict.fromkeys([*files, *photo_files])),
        )

    def _find_frame_boxes(
        self, poses: FrameFolder, recording: Recording | None, recording_path: Path
    ) -> tuple[list[FaceBox | None], list[Path]]:
        """The face's box in each output frame, from masks, or else from the skeletons' key points."""
        source = self.validation_control_mask_folder or str(recording_path)
        if self.validation_control_mask_folder is not None:
            masks = FrameFolder(source)
            order = self._pair(source, [frame_number(path) for path in masks.paths], poses)
            warn_if_stretched(f"{source}: masks", masks.sizes, (self.width, self.height), MASK_ADVICE)
            boxes = boxes_from_masks((masks[i] for i in order), self.height, self.width)
            files, empty = [masks.paths[i] for i in order], f"a mask is {NO_WHITE}"
        elif recording is None:
            raise InputError(
                f"where the faces are is unknown: {source} is not there, and --validation_control_mask_folder not "
                "given; extract the skeletons with skeleton_extraction.py, or masks with face_mask_extraction.py"
            )
        elif recording.drawn is None:
            raise InputError(f"{source}: holds no aligned skeletons; run skeleton_extraction.py again")
        else:
            drawn = boxes_from_skeletons(recording.drawn, self.height, self.width)
            boxes = [drawn[i] for i in self._pair(source, list(range(len(drawn))), poses)]
            files = [recording_path]
            empty = f"their skeletons show too few of a face's points, or a face below {SMALLEST_FACE} pixels"
        without = [i for i, box in enumerate(boxes) if box is None]
        if len(without) == len(boxes):
            raise InputError(
                f"{source}: none of the {len(boxes)} frames has a face ({empty}), so there is nothing to optimise; "
                "make them again, or run inference_basic.py"
            )
        if without:
            logger.warning(
                f"{source}: {len(without)} of {len(boxes)} frames have no face ({empty}) and take no part in the "
                f"optimisation: {listed(without)}"
            )
        return boxes, files

    def _pair(self, source: str, numbers: list[int | None], poses: FrameFolder) -> list[int]:
        """Which of a source's frames, of these numbers, belongs to each pose: by number where all are there."""
        wanted = [frame_number(path) for path in poses.paths]
        if len(numbers) < len(wanted) or (self.max_frames is None and len(numbers) != len(wanted)):
            found = f"faces of {len(numbers)} frames, but there are {len(wanted)} poses"
            raise InputError(f"{source}: {found}; make them from the same frames")
        if set(wanted) <= set(numbers):
            return [numbers.index(number) for number in wanted]
        logger.warning(f"{source}: its frames are numbered otherwise than the poses; they are taken in their order")
        return list(range(len(wanted)))

    def _find_photo_face(
        self, photo: Image.Image, recording: Recording | None, recording_path: Path, networks: Networks
    ) -> tuple[FaceBox, list[Path]]:
        """The photo's face, from its mask, the key points of that photo, or insightface's detector."""
        if self.validation_image_mask is not None:
            path = Path(self.validation_image_mask)
            mask = load_photo(path).convert("L")
            warn_if_stretched(f"{path}: a mask", [mask.size], photo.size, MASK_ADVICE)
            box = box_from_mask(np.asarray(mask), photo.height, photo.width)
            if box is None:
                raise InputError(
                    f"{path}: the mask shows no face: it is {NO_WHITE}; paint the face white on black, or leave it out"
                )
            return box, [path]
        files: list[Path] = []
        near = None
        if self.face is None and recording and recording.belongs_to(describe_file(Path(self.validation_image))):
            files, near = [recording_path], recording.face and np.multiply(recording.face, photo.size)
            box = _recorded_face(recording, photo)
            if box is not None:
                logger.info(f"the photo's face, which the frames are drawn towards, is {recording_path}'s")
                return box, files
        box = self._detect_face(photo, networks, self.face, near)
        if box is None:
            raise InputError(
                f"{self.validation_image}: no face was found in it, so the frames cannot be drawn towards it; paint it "
                "white on a black --validation_image_mask, or give another picture of the person as --face_photo"
            )
        return box, files

    def _detect_face(
        self, picture: Image.Image, networks: Networks, number: int | None = None, near: np.ndarray | None = None
    ) -> FaceBox | None:
        """The face of `choose_face` in a picture; None where none is found."""
        try:
            finder = networks.open(FaceFinder, self.face_models, self.dwpose_models, "cpu", networks)
        except InputError as error:
            raise InputError(f"where the photo's face is is unknown: give --validation_image_mask ({error})") from None
        faces, way = finder(np.asarray(picture))
        if not faces:
            return None
        logger.info(f"the face, which the frames are drawn towards, was found by {way}")
        return clip_box(choose_face(faces, number, near).box, picture.height, picture.width)


def _recorded_face(recording: Recording, photo: Image.Image) -> FaceBox | None:
    """The face, by its key points, of the photo's person who counts."""
    if recording.photo is None or recording.photo_size is None or not recording.photo.detected:
        return None
    people, scale = recording.photo.openpose(), np.divide(photo.size, recording.photo_size)
    if recording.face is not None:
        people, scale = photo_person(recording), np.array(photo.size)
    return largest_face(people, scale, photo.height, photo.width)
