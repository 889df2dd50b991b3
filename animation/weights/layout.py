"""Which checkpoints are used where no flag names one: the released ones, or the small ones that come along.

    checkpoints/{Animation,SVD,DWPose}  models/antelopev2                    the released layout
    checkpoints/tiny/{Animation,SVD,DWPose}  models/tiny/antelopev2          the small ones, trained on drawn figures

The parts of a set were trained for each other, so that sets are never mixed: the small one is used only where nothing
of the released one is there.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from animation.errors import CheckpointError
from DWPose.wholebody import MODEL_FILES

T = TypeVar("T")

logger = logging.getLogger(__name__)

SVD_FOLDER = "stable-video-diffusion-img2vid-xt"
MODEL_FILE = "model.json"  # of the small set: what it was trained for
TINY = {"width": 128, "height": 128, "canvas": 384, "guidance_scale": 1.0, "num_inference_steps": 6}  # unless it says
RELEASED = {"width": 576, "height": 1024, "guidance_scale": 3.0, "num_inference_steps": 25}
PLACES = {  # settings that name a network, and what `Checkpoints` calls it
    "pretrained_model_name_or_path": "svd",
    "unet_model_name_or_path": "unet",
    "posenet_model_name_or_path": "pose_net",
    "face_encoder_model_name_or_path": "face_encoder",
    "unet_model_finetune_path": "unet",
    "posenet_model_finetune_path": "pose_net",
    "face_encoder_finetune_path": "face_encoder",
    "face_models": "face_models",
    "dwpose_models": "dwpose",
    "pose_models": "dwpose",
    "detector_path": "detector",
    "pose_path": "pose_estimator",
}


@dataclass(frozen=True)
class Checkpoints:
    """Paths of one set, whether its files are there or not.

    Attributes:
        svd: Stable Video Diffusion's diffusers folder.
        unet, pose_net, face_encoder: the method's own parts.
        arcface: the face recogniser in torch, for face optimisation.
        dwpose: the folder of the person detector and the pose estimator.
        face_models: insightface's antelopev2.
        tiny: whether this is the small set.
        suits: settings that it is best at, by name: width and height in pixels, guidance scale, denoising steps, and
            the short side of what its skeletons are drawn on, `canvas`, where that is not DWPose's own.
    """

    svd: Path
    unet: Path
    pose_net: Path
    face_encoder: Path
    arcface: Path
    dwpose: Path
    face_models: Path
    tiny: bool = False
    suits: Mapping[str, float] = field(default_factory=RELEASED.copy)

    @property
    def detector(self) -> Path:
        """The person detector."""
        return self.dwpose / MODEL_FILES[0]

    @property
    def pose_estimator(self) -> Path:
        """The pose estimator."""
        return self.dwpose / MODEL_FILES[1]

    def announce(self) -> None:
        """Say loudly in the log where this is the small set."""
        if self.tiny:
            logger.warning(
                "NO RELEASED WEIGHTS in checkpoints/ and models/: the SMALL networks in %s are used, which "
                "know drawn figures alone and work at %d×%d pixels; download_weights.py fetches the "
                "released ones",
                self.unet.parents[1],
                self.suits["width"],
                self.suits["height"],
            )


def fill_in(settings: T, checkpoints: Checkpoints | None = None) -> T:
    """Settings in which every network that was left out (None) is found, and what suits it is set; the log says so.

    Args:
        settings: a dataclass with fields of the names in `PLACES` and `RELEASED`; its other fields stay.
        checkpoints: that are taken; None: those that `find_checkpoints` finds.

    Raises:
        CheckpointError: the small set's `model.json` makes no sense.
    """
    checkpoints = checkpoints or find_checkpoints()
    missing = {name for name, value in vars(settings).items() if value is None}
    networks = {name: str(getattr(checkpoints, part)) for name, part in PLACES.items() if name in missing}
    if networks:
        checkpoints.announce()
    small = checkpoints.tiny and getattr(settings, "unet_model_name_or_path", None) is None
    suits = {name: value for name, value in (checkpoints.suits if small else RELEASED).items() if name in missing}
    return replace(settings, **networks, **suits)


def find_checkpoints(root: str | Path = ".") -> Checkpoints:
    """The released set, or where none of its weights is there and the small one is, the small one.

    Args:
        root: holds `checkpoints` and `models`.

    Raises:
        CheckpointError: the small set's `model.json` makes no sense.
    """
    root = Path(root)
    released = _layout(root / "checkpoints", root / "models" / "antelopev2")
    tiny = _layout(root / "checkpoints" / "tiny", root / "models" / "tiny" / "antelopev2")
    if _has_weights(released) or not _has_weights(tiny):
        return Checkpoints(**released)
    return Checkpoints(**tiny, tiny=True, suits=_recommended(root / "checkpoints" / "tiny" / MODEL_FILE))


def _layout(folder: Path, face_models: Path) -> dict[str, Path]:
    svd = folder / "SVD" / SVD_FOLDER
    return {
        "svd": folder / "SVD" if (folder / "SVD" / "model_index.json").is_file() else svd,
        "unet": folder / "Animation" / "unet.pth",
        "pose_net": folder / "Animation" / "pose_net.pth",
        "face_encoder": folder / "Animation" / "face_encoder.pth",
        "arcface": folder / "Animation" / "glintr100_torch.pth",
        "dwpose": folder / "DWPose",
        "face_models": face_models,
    }


def _has_weights(paths: dict[str, Path]) -> bool:
    """Whether anything of a set is there: a weights file of any part."""
    files = [
        file
        for name in ("unet", "pose_net", "face_encoder", "arcface")
        for file in (paths[name], paths[name].with_suffix(".safetensors"))
    ]
    folders = [paths["dwpose"], paths["face_models"], paths["face_models"] / "antelopev2"]
    return (
        any(file.is_file() for file in files)
        or (paths["svd"] / "model_index.json").is_file()
        or any(any(folder.glob("*.onnx")) for folder in folders)
    )


def _recommended(path: Path) -> dict[str, float]:
    """What suits the small set, from its own description where there is one."""
    content: object = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON ({error}); restore it, or delete it") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: a {type(content).__name__} where a JSON object was due; restore it, or delete it"
        )
    found = {name: content.get(name, default) for name, default in TINY.items()}
    for name, value in found.items():
        kinds, least = (
            (int | float, -math.inf) if name == "guidance_scale" else (int, 1 if name == "num_inference_steps" else 16)
        )
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < math.inf:
            raise CheckpointError(f"{path}: {name} is {value!r}; it must be a number from {least}")
    return found
