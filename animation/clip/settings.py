"""The settings of a clip, checked at the edge. Imports no torch, so that bad input is answered at once."""

import contextlib
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from animation.clip.driver import KINDS, Driver, open_driver
from animation.defaults import Checkpoints, find_checkpoints
from animation.errors import InputError
from animation.face.detection import RECOGNISER, find_face_models
from animation.face.embedding import load_face_embedding
from animation.face.settings import FaceOptimizationSettings
from animation.frames import load_photo
from animation.framing import AUTO, BASE_SIZE, FITS, Framing, frame_photo
from animation.settings import InferenceSettings, SamplingSettings
from animation.skeletons.settings import SkeletonSettings
from animation.writing import check_writable
from DWPose.keypoints import CONFIDENCE
from DWPose.wholebody import MODEL_FILES

logger = logging.getLogger(__name__)

ANCHORS, NOISES = ("first", "photo"), ("repeat", "fresh")
LARGEST_LOOP = 1000
INTERMEDIATE_FOLDER = "intermediate"  # of the output folder: what a later run takes from there
PHOTO_FILE, SKELETONS_FOLDER, EMBEDDING_FILE = "photo.png", "skeletons", "face_embedding.npy"
PRESETS = {
    "draft": {"num_inference_steps": 10, "frames_overlap": 2, "decode_chunk_size": 2, "face_optimization": False},
    "standard": {"num_inference_steps": 25, "frames_overlap": 4, "decode_chunk_size": 4, "face_optimization": False},
    "best": {"num_inference_steps": 30, "frames_overlap": 8, "decode_chunk_size": 8, "face_optimization": True},
}
TWINS = (".pth", ".safetensors")  # endings that the same weights may have
WEIGHTS = {  # settings that name a network, and what `Checkpoints` calls it
    "pretrained_model_name_or_path": "svd",
    "unet_model_name_or_path": "unet",
    "posenet_model_name_or_path": "pose_net",
    "face_encoder_model_name_or_path": "face_encoder",
    "face_embedding_extractor_weight_path": "arcface",
    "dwpose_models": "dwpose",
    "face_models": "face_models",
}


@dataclass
class ClipInputs:
    """What a clip reads before any network.

    Attributes:
        photo: RGB, upright.
        framing: how it lies on the canvas of the model's size.
        driver: what moves it.
        face_embedding: 512 numbers; None: to be computed.
    """

    photo: Image.Image
    framing: Framing
    driver: Driver
    face_embedding: np.ndarray | None


@dataclass(kw_only=True)
class ClipSettings(SamplingSettings):
    """A clip's settings, named as the flags of `animate.py`, whose help explains them.

    What is None of the weights is found by `find_checkpoints`, and of the rest set by the preset: see `resolve`.
    """

    photo: str | None = None
    video: str | None = None
    output: str | None = None

    driver_kind: str | None = None
    size: str | None = None
    fit: str = "crop"
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_seconds: float | None = None
    loop: int = 1
    no_audio: bool = False
    side_by_side: bool = False
    gif: bool = False
    no_png: bool = False
    no_figures: bool = False
    color_match: bool = False
    again: bool = False

    preset: str = "standard"
    max_vram: float | None = None
    anchor: str = "first"
    noise: str = "repeat"
    num_inference_steps: int | None = None
    frames_overlap: int | None = None
    decode_chunk_size: int | None = None
    face_optimization: bool | None = None
    num_optimization_iter: int = 3
    start_refine_step: int = 0
    end_refine_step: int = 20
    hjb_crop: int | None = None

    alignment: str = "affine"
    person: str = "track"
    missing: str = "interpolate"
    smooth: bool = False
    confidence: float = CONFIDENCE
    canvas: int | None = None
    guidance_scale: float | None = None

    pretrained_model_name_or_path: str | None = None
    unet_model_name_or_path: str | None = None
    posenet_model_name_or_path: str | None = None
    face_encoder_model_name_or_path: str | None = None
    face_embedding_extractor_weight_path: str | None = None
    face_models: str | None = None
    dwpose_models: str | None = None

    def resolve(self, checkpoints: Checkpoints | None = None) -> "ClipSettings":
        """The same settings with nothing left open: networks, size, and what the preset sets, which the log tells.

        Raises:
            InputError: an unknown preset, or a setting that is of the wrong kind.
        """
        checkpoints = checkpoints or find_checkpoints()
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset!r} is unknown; give one of {', '.join(PRESETS)}")
        if any(getattr(self, name) is None for name in WEIGHTS):
            checkpoints.announce()
        found = {name: str(getattr(checkpoints, part)) for name, part in WEIGHTS.items()}
        if not any(checkpoints.arcface.with_suffix(suffix).is_file() for suffix in TWINS):
            with contextlib.suppress(InputError):  # ArcFace in the format that finds faces
                models = find_face_models(self.face_models or checkpoints.face_models, (RECOGNISER,))
                found["face_embedding_extractor_weight_path"] = str(models / RECOGNISER)
        found |= {"size": AUTO, "guidance_scale": SamplingSettings.guidance_scale, **PRESETS[self.preset]}
        if checkpoints.tiny and self.unet_model_name_or_path is None:
            found |= {"size": f"{checkpoints.width}x{checkpoints.height}", "canvas": checkpoints.canvas}
            found["guidance_scale"] = checkpoints.guidance_scale
        found["frames_overlap"] = min(found["frames_overlap"], max(self.tile_size - 1, 0))
        open_ones = {name: value for name, value in found.items() if getattr(self, name) is None}
        sets = ", ".join(
            f"{name} {value}" + ("" if name in open_ones else f" (--{name}: {getattr(self, name)})")
            for name, value in found.items()
            if name in PRESETS[self.preset]
        )
        logger.info("preset %s: %s", self.preset, sets)
        return replace(self, **open_ones)

    def read_inputs(self, base_size: int = BASE_SIZE) -> ClipInputs:
        """Check everything that can be checked without torch, of resolved settings, and read the inputs.

        Args:
            base_size: pixels a side of the square that the checkpoint was trained on.

        Raises:
            InputError, PoseError: a setting is out of range, an input is missing or unreadable, or the output not
                writable.
        """
        self._check_given()
        self._check_choices()
        photo = load_photo(self.photo)
        framing = frame_photo(photo.size, self.size, self.fit, base_size)
        self.inference_settings(framing, 7, face_boxes=True).check_ranges()
        driver = open_driver(self.video, self.driver_kind, self.start, self.end, self.max_seconds, self.fps)
        self._check_networks(driver)
        embedding = None if self.face_embedding is None else load_face_embedding(self.face_embedding)
        check_writable(Path(self.output))
        self._check_places()
        return ClipInputs(photo, framing, driver, embedding)

    def _check_given(self) -> None:
        for name in ("photo", "video", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing; give the photo, what drives it, and an output folder")
        for field in fields(self):
            value = getattr(self, field.name)
            if value == "":
                raise InputError(f"--{field.name} is empty; give a value or leave it out")
            if isinstance(value, str) and "\0" in value:
                raise InputError(f"--{field.name} {value!r} has a null character in it; give another name")

    def _check_choices(self) -> None:
        for name, known in (("fit", FITS), ("anchor", ANCHORS), ("noise", NOISES)):
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)!r} is unknown; give one of {', '.join(known)}")
        if self.driver_kind is not None and self.driver_kind not in KINDS:
            raise InputError(f"--driver_kind {self.driver_kind!r} is unknown; give one of {', '.join(KINDS)}")
        if not 1 <= self.loop <= LARGEST_LOOP:
            raise InputError(f"--loop {self.loop} is out of range; give 1 to {LARGEST_LOOP} times")
        if self.max_vram is not None and not 0 < self.max_vram < float("inf"):
            raise InputError(f"--max_vram {self.max_vram:g} is out of range; give the GPU's memory in GB")
        self.skeleton_settings(Path(), (512, 512), None).check_choices()

    def _check_networks(self, driver: Driver) -> None:
        """That the files which are needed are there."""
        for name in ("unet", "posenet", "face_encoder"):
            flag = f"{name}_model_name_or_path"
            path = Path(getattr(self, flag))
            if not any(twin.is_file() for twin in (path, *map(path.with_suffix, TWINS))):
                raise InputError(f"{path}: no such file; download_weights.py fetches the released one, or name another "
                                 f"with --{flag}")  # fmt: skip
        if self.face_optimization:
            self.recogniser()
        if driver.kind in ("video", "frames") or self.anchor == "photo":
            for path in (Path(self.dwpose_models) / name for name in MODEL_FILES):
                if not path.is_file():
                    raise InputError(f"{path}: no such file, and skeletons are found with it; download_weights.py "
                                     "fetches it, or name its folder with --dwpose_models")  # fmt: skip
        if self.face_embedding is None:
            try:
                find_face_models(self.face_models)
            except InputError as error:
                raise InputError(f"{error}, or give a stored vector with --face_embedding") from None

    def _check_places(self) -> None:
        """That the result does not fall on what it is made of."""
        output = Path(self.output).resolve()
        video = Path(self.video).resolve()
        own = [output / INTERMEDIATE_FOLDER / SKELETONS_FOLDER, output / "animated_images", output / "animation.mp4"]
        if video in (output, *own):
            raise InputError(f"--output {self.output}: its results would fall on the driver {self.video}; give another "
                             "folder")  # fmt: skip
        if Path(self.photo).resolve() == output / INTERMEDIATE_FOLDER / PHOTO_FILE:
            raise InputError(f"--output {self.output}: its results would fall on the photo; give another folder")

    @property
    def intermediate(self) -> Path:
        """Where what is made on the way is kept."""
        return Path(self.output) / INTERMEDIATE_FOLDER

    def recogniser(self) -> Path:
        """ArcFace's weights for face optimisation. Raises InputError where there are none."""
        names = ("face_models", "face_embedding_extractor_weight_path")
        return FaceOptimizationSettings(
            validation_image="", validation_control_folder="", output_dir="",
            **{name: getattr(self, name) for name in names},
        ).find_extractor()  # fmt: skip

    def skeleton_settings(self, photo: Path, size: tuple[int, int], driver: Driver | None) -> SkeletonSettings:
        """The settings of the extraction that makes the skeletons of a photo on its canvas.

        Args:
            photo: the photo on its canvas.
            size: of the canvas, width and height in pixels.
            driver: None: of none.
        """
        paths = {} if driver is None else {
            "video": {"target_video": str(driver.path)},
            "frames": {"target_image_folder_path": str(driver.path)},
        }.get(driver.kind, {})  # fmt: skip
        if paths:
            paths |= {"start": self.start, "end": driver.end, "fps": driver.taken_fps}
        detector, pose = (str(Path(self.dwpose_models) / name) for name in MODEL_FILES)
        return SkeletonSettings(
            poses_folder_path=str(self.intermediate / SKELETONS_FOLDER),
            ref_image_path=str(photo),
            detector_path=detector,
            pose_path=pose,
            device=self.device if self.device in ("cuda", "cpu") else "auto",
            alignment=self.alignment,
            person=self.person,
            missing=self.missing,
            smooth=self.smooth,
            confidence=self.confidence,
            canvas=self.canvas,
            size=f"{size[0]}x{size[1]}",
            **paths,
        )

    def inference_settings(self, framing: Framing, fps: float, face_boxes: bool = False) -> InferenceSettings:
        """The settings of the run that animates the photo on its canvas with the skeletons, all in the output folder.

        Args:
            fps: of the clip.
            face_boxes: whether it is known where the faces are, which face optimisation needs.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(SamplingSettings)}
        shared |= {
            "validation_image": str(self.intermediate / PHOTO_FILE),
            "validation_control_folder": str(self.intermediate / SKELETONS_FOLDER),
            "output_dir": self.output,
            "face_embedding": str(self.intermediate / EMBEDDING_FILE),
            "width": framing.width,
            "height": framing.height,
            "fps": fps,
            "no_gif": not self.gif,
            "no_png": self.no_png,
        }
        if not (self.face_optimization and face_boxes):
            return InferenceSettings(**shared)
        names = ("face_embedding_extractor_weight_path", "num_optimization_iter", "start_refine_step",
                 "end_refine_step", "hjb_crop")  # fmt: skip
        return FaceOptimizationSettings(**shared, **{name: getattr(self, name) for name in names})
