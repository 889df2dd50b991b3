"""The settings of a clip, checked at the edge. Imports no torch, so that bad input is answered at once."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from animation.clip.driver import KINDS, Driver, open_driver
from animation.errors import InputError
from animation.face.settings import FaceOptimization, FaceOptimizationSettings
from animation.flags import FILES, FRAMES, NOTHING, flag
from animation.media.framing import AUTO, FITS, Framing, frame_photo
from animation.media.images import load_photo
from animation.media.writing import FRAMES_FOLDER, PARTIAL_FOLDER, check_writable
from animation.settings import SCHEDULES, WINDOWS, InferenceSettings, Levers, Person, Sampling
from animation.skeletons.settings import SkeletonChoices, SkeletonSettings
from animation.weights.layout import Checkpoints, fill_in, find_file, set_of
from DWPose.outliers import OUTLIERS
from DWPose.wholebody import MODEL_FILES

logger = logging.getLogger(__name__)

ANCHORS = ("first", "photo")
LARGEST_LOOP = 1000
INTERMEDIATE_FOLDER = "intermediate"  # of the output folder: what a later run takes from there
STATE_FOLDER = ".unfinished"  # of the output folder: what the same command goes on from
STATE_FILE = "state.json"  # in it: what it depends on
PHOTO_FILE, SKELETONS_FOLDER, EMBEDDING_FILE = "photo.png", "skeletons", "face_embedding.npy"
INNER_FOLDERS = (
    STATE_FOLDER,
    f"{STATE_FOLDER}/frames",
    INTERMEDIATE_FOLDER,
    f"{INTERMEDIATE_FOLDER}/{SKELETONS_FOLDER}",
)
RELEASED: dict[str, Any] = {
    "num_inference_steps": 25,
    "frames_overlap": 4,
    "decode_chunk_size": 4,
    "face_optimization": False,
    "schedule": "karras",
    "guidance_interval": None,
    "windows": "overlapping",
    "cache": 1,
}
FAST = {"num_inference_steps": 10, "schedule": "ays", "guidance_interval": [0.5, 50.0], "windows": "shifted"}
PRESETS = {
    "draft": RELEASED | FAST | {"num_inference_steps": 8, "cache": 2, "decode_chunk_size": 2},
    "fast": RELEASED | FAST,
    "standard": RELEASED,
    "best": RELEASED
    | {"num_inference_steps": 30, "frames_overlap": 8, "decode_chunk_size": 8, "face_optimization": True},
}
PURPOSES = {
    "draft": "a first look, in a sixth of standard's sampling",
    "fast": "nearly standard's quality in a quarter of its sampling",
    "standard": "the released defaults",
    "best": "the final clip, in 1.8 times standard's sampling, and face optimisation, which may take longer than that",
}


def _set_by(preset: str) -> str:
    """What a preset sets, in words: all of the first four, and of the rest what differs from the released ones."""
    told = [name for i, name in enumerate(RELEASED) if i < 4 or PRESETS[preset][name] != RELEASED[name]]
    return ", ".join(f"{name} {PRESETS[preset][name]}" for name in told)


PRESETS_HELP = "; ".join(f"{preset}: {purpose} ({_set_by(preset)})" for preset, purpose in PURPOSES.items())


@dataclass
class ClipInputs(Person):
    """What a clip reads before any network.

    Attributes:
        framing: how the photo lies on the canvas of the model's size.
        driver: what moves it.
    """

    framing: Framing
    driver: Driver


@dataclass(kw_only=True)
class ClipSettings(Sampling, Levers, SkeletonChoices, FaceOptimization):
    """A clip's settings, named as the flags of `animate.py`, whose help explains them.

    What is None of the weights is found by `fill_in`, and of the rest set by the preset: see `resolve`.
    """

    photo: str | None = flag(None, "the photo of the person", metavar="FILE", affects=NOTHING)
    video: str | None = flag(
        None,
        "what drives it: a video file, a folder of frames or of skeletons, or a keypoints.npz",
        metavar="PATH",
        affects=NOTHING,
    )
    output: str | None = flag(None, "where the results go; made where missing", metavar="DIR", affects=NOTHING)
    driver_kind: str | None = flag(None, "what --video is; left out, it is found out", choices=KINDS, affects=NOTHING)
    size: str | None = flag(
        None,
        "of the canvas that the model works on, multiples of 64 pixels, or auto for the one of 512x512, 576x1024 and "
        "1024x576 that is nearest the photo's shape; left out, auto, or what the small checkpoint recommends",
        metavar="WxH",
    )
    fit: str = flag(
        "crop",
        "how the photo is brought on the canvas: cut, padded (the padding is cut off the result), or distorted",
        choices=FITS,
    )
    fps: float | None = flag(None, "frames a second; left out, the driver's (30 of a folder)")
    start: float | None = flag(None, "where in the driver to begin; left out, at 0", metavar="SECONDS")
    end: float | None = flag(None, "where to end; left out, with the driver", metavar="SECONDS")
    max_seconds: float | None = flag(
        None, "the clip is at most so long; left out, as long as its driver", above=0, metavar="SECONDS"
    )
    loop: int = flag(1, "show the driver's part so many times", least=1, most=LARGEST_LOOP)
    no_audio: bool = flag(False, "leave the driver's sound out", affects=FILES)
    gif: bool = flag(False, "also write animated_images.gif", affects=FILES)
    no_png: bool = flag(False, "do not write animated_images/", affects=FILES)
    side_by_side: bool = flag(False, "also write photo, driver, skeleton and result side by side", affects=FILES)
    no_figures: bool = flag(False, "do not compare the faces with the photo's", affects=FILES)
    again: bool = flag(False, "make a clip anew that is there already", affects=NOTHING)

    preset: str = flag("standard", PRESETS_HELP, choices=tuple(PRESETS), affects=NOTHING)
    anchor: str = flag(
        "first",
        "the skeleton of the frame that all windows share: the driver's first, or the photo's own, whose frame is left "
        "out of the clip",
        choices=ANCHORS,
    )
    outliers: str = flag(
        "drop", "joints that jump out of their motion: kept, or dropped and filled as --missing says", choices=OUTLIERS
    )
    widen_boxes: bool = flag(
        True, "with --person track, look for a person's limbs also where they were a frame before, outside of the box"
    )
    color_match: bool = flag(False, "give the frames the photo's colours", affects=FILES)
    face_optimization: bool | None = flag(
        None, "draw each frame's face towards the photo's; needs key points; left out, as the preset says"
    )
    frames_overlap: int | None = flag(
        None, "frames that neighbouring windows share; left out, as the preset says", least=0
    )
    decode_chunk_size: int | None = flag(
        None, "frames that are decoded together; left out, as the preset says", least=1, affects=FRAMES
    )
    schedule: str | None = flag(None, "noise levels; left out, as the preset says", choices=SCHEDULES)
    windows: str | None = flag(
        None, "as --frames_overlap says, or without overlap and shifted; left out, as the preset says", choices=WINDOWS
    )
    cache: int | None = flag(
        None, "run the UNet's deep layers at every Nth step only; left out, as the preset says", least=1
    )
    max_vram: float | None = flag(
        None,
        "of the GPU's memory: picks offload, guidance batching, window and decode chunk to fit, each unless its own "
        "flag is given, and prints what each stage takes and about how long",
        above=0,
        metavar="GB",
        affects=NOTHING,
    )

    def resolve(self, checkpoints: Checkpoints | None = None) -> "ClipSettings":
        """The same settings with nothing left open: networks, size, and what the preset sets, which the log tells.

        Raises:
            InputError: an unknown preset.
        """
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset!r} is unknown; give one of {', '.join(PRESETS)}")
        sets: dict[str, Any] = dict(PRESETS[self.preset])
        found = set_of(self.unet_model_name_or_path, checkpoints)
        if found.tiny:
            sets["num_inference_steps"] = min(sets["num_inference_steps"], found.suits["num_inference_steps"])
        sets["frames_overlap"] = min(sets["frames_overlap"], max(self.tile_size - 1, 0))
        told = (
            f"{name} {value}" + ("" if getattr(self, name) is None else f" (--{name}: {getattr(self, name)})")
            for name, value in sets.items()
        )
        logger.info("preset %s: %s", self.preset, ", ".join(told))
        sets["size"] = f"{found.suits['width']}x{found.suits['height']}" if found.tiny else AUTO
        left_open = {name: value for name, value in sets.items() if getattr(self, name) is None}
        return fill_in(replace(self, **left_open), checkpoints)

    def check(self) -> None:
        """Raise InputError for a setting of resolved settings that makes no sense."""
        for name in ("photo", "video", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing; give the photo, what drives it, and an output folder")
        super().check()
        if self.face_optimization:
            self.check_refined_steps(self.num_inference_steps)

    def read_inputs(self) -> ClipInputs:
        """Check everything that can be checked without torch, of resolved settings, and read the inputs.

        Raises:
            InputError: a setting is out of range, an input is missing or unreadable, or the output not
                writable.
        """
        self.check()
        photo = load_photo(self.photo)
        framing = frame_photo(photo.size, self.size, self.fit)
        driver = open_driver(self.video, self.driver_kind, self.start, self.end, self.max_seconds, self.fps)
        self._check_networks(driver)
        face = self.read_face(self.face_models)
        check_writable(Path(self.output), FRAMES_FOLDER, PARTIAL_FOLDER, *INNER_FOLDERS)
        self._check_places()
        return ClipInputs(photo, *face, framing, driver)

    def _check_networks(self, driver: Driver) -> None:
        """That the files which are needed are there."""
        for name in ("unet", "posenet", "face_encoder"):
            flag = f"{name}_model_name_or_path"
            path = Path(getattr(self, flag))
            if not find_file(path):
                raise InputError(
                    f"{path}: no such file; download_weights.py fetches the released one, or name another with --{flag}"
                )
        if self.face_optimization:
            self.find_extractor()
        if driver.kind in ("video", "frames") or self.anchor == "photo":
            for path in (Path(self.dwpose_models) / name for name in MODEL_FILES):
                if not path.is_file():
                    raise InputError(
                        f"{path}: no such file, and skeletons are found with it; download_weights.py "
                        "fetches it, or name its folder with --dwpose_models"
                    )

    def _check_places(self) -> None:
        """That the result does not fall on what it is made of."""
        output = Path(self.output).resolve()
        video = Path(self.video).resolve()
        own = [output / INTERMEDIATE_FOLDER / SKELETONS_FOLDER, output / "animated_images", output / "animation.mp4"]
        if video in (output, *own):
            raise InputError(
                f"--output {self.output}: its results would fall on the driver {self.video}; give another folder"
            )
        if Path(self.photo).resolve() == output / INTERMEDIATE_FOLDER / PHOTO_FILE:
            raise InputError(f"--output {self.output}: its results would fall on the photo; give another folder")

    @property
    def intermediate(self) -> Path:
        """Where what is made on the way is kept."""
        return Path(self.output) / INTERMEDIATE_FOLDER

    def skeleton_settings(self, photo: Path, size: tuple[int, int], driver: Driver | None) -> SkeletonSettings:
        """The settings of the extraction that makes the skeletons of a photo on its canvas.

        Args:
            photo: the photo on its canvas.
            size: of the canvas, width and height in pixels.
            driver: None: of none.
        """
        part: dict[str, Any] = {}
        if driver is not None and driver.kind in ("video", "frames"):
            flag_name = "target_video" if driver.kind == "video" else "target_image_folder_path"
            part = {flag_name: str(driver.path), "start": self.start, "end": driver.end, "fps": driver.taken_fps}
        detector, pose = (str(Path(self.dwpose_models) / name) for name in MODEL_FILES)
        return SkeletonSettings(
            **self.shared(SkeletonChoices),
            poses_folder_path=str(self.intermediate / SKELETONS_FOLDER),
            ref_image_path=str(photo),
            detector_path=detector,
            pose_path=pose,
            device=self.device if self.device in ("cuda", "cpu") else "auto",
            size=f"{size[0]}x{size[1]}",
            **part,
        )

    def inference_settings(self, framing: Framing, fps: float, face_boxes: bool = False) -> InferenceSettings:
        """The settings of the run that animates the photo on its canvas with the skeletons, all in the output folder.

        Args:
            fps: of the clip.
            face_boxes: whether it is known where the faces are, which face optimisation needs.
        """
        cls = FaceOptimizationSettings if self.face_optimization and face_boxes else InferenceSettings
        own = {
            "validation_image": str(self.intermediate / PHOTO_FILE),
            "validation_control_folder": str(self.intermediate / SKELETONS_FOLDER),
            "output_dir": self.output,
            "face_embedding": str(self.intermediate / EMBEDDING_FILE),
            "face": None if framing.face else self.face,  # else counted on the canvas
            "width": framing.width,
            "height": framing.height,
            "fps": fps,
            "no_gif": not self.gif,
        }
        return cls(**(self.shared(cls) | own))
