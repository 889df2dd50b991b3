"""Which checkpoints are used where no flag names one: the released ones, or the small ones that come along.

    checkpoints/{Animation,SVD,DWPose}  models/antelopev2                    the released layout
    checkpoints/tiny/{Animation,SVD,DWPose}  models/tiny/antelopev2          the small ones, trained on drawn figures

The parts of a set were trained for each other, so that sets are never mixed: the small one is used only where nothing
of the released one is there. Which folder holds `checkpoints` and `models`: see `home`.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from animation.errors import CheckpointError
from animation.flags import Settings
from DWPose.wholebody import MODEL_FILES

T = TypeVar("T", bound=Settings)

logger = logging.getLogger(__name__)

HOME_VARIABLE = "STABLEANIMATOR_HOME"
CHECKOUT = Path(__file__).parents[2]  # of the sources, where the package is used from one
INSTALLED = Path(__file__).parents[1] / "shipped"  # the small set, where the package is installed
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

    `suits`: settings that it is best at, by name: width and height in pixels, guidance scale, denoising steps, and the
    short side of what its skeletons are drawn on, `canvas`, where that is not DWPose's own.
    """

    svd: Path  # Stable Video Diffusion's diffusers folder
    unet: Path
    pose_net: Path
    face_encoder: Path
    arcface: Path  # the face recogniser in torch, for face optimisation
    dwpose: Path  # the folder of the person detector and the pose estimator
    face_models: Path  # insightface's antelopev2
    tiny: bool = False  # whether this is the small set
    suits: Mapping[str, float] = field(default_factory=RELEASED.copy)

    @property
    def detector(self) -> Path:
        return self.dwpose / MODEL_FILES[0]

    @property
    def pose_estimator(self) -> Path:
        return self.dwpose / MODEL_FILES[1]

    def announce(self) -> None:
        """Say loudly in the log where this is the small set."""
        if self.tiny:
            logger.warning(
                f"NO RELEASED WEIGHTS in checkpoints/ and models/: the SMALL networks in {self.unet.parents[1]} are "
                f"used, which know drawn figures alone and work at {self.suits['width']}×{self.suits['height']} "
                "pixels; download_weights.py fetches the released ones"
            )


def fill_in(settings: T, checkpoints: Checkpoints | None = None) -> T:
    """Settings in which every network that was left out (None) is found, and what suits it is set; the log says so.

    Fields are known by the names in `PLACES` and `RELEASED`, and taken from `checkpoints`, else as found.
    """
    checkpoints = set_of(getattr(settings, "unet_model_name_or_path", None), checkpoints)
    missing = {name for name, value in vars(settings).items() if value is None}
    networks = {name: str(getattr(checkpoints, part)) for name, part in PLACES.items() if name in missing}
    if networks:
        checkpoints.announce()
    suits = {name: value for name, value in checkpoints.suits.items() if name in missing}
    return replace(settings, **networks, **suits)


def set_of(unet: str | Path | None, found: Checkpoints | None = None) -> Checkpoints:
    """The released set beside another UNet than the small one; else `found`, or what `find_checkpoints` finds."""
    found = found or find_checkpoints()
    other = unet is not None and Path(unet).with_suffix("").resolve() != found.unet.with_suffix("").resolve()
    return released(home()) if found.tiny and other else found


def home() -> Path:
    """The folder that holds `checkpoints` and `models`.

    It is $STABLEANIMATOR_HOME where that is set. Else it is the first of these that holds weights of either set: the
    working directory, the source checkout, the installed package. Where none does, it is the working directory.
    """
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named)
    folders = (Path(), CHECKOUT, INSTALLED)
    return next((folder for folder in folders if _has_weights(released(folder)) or _has_weights(small(folder))), Path())


def download_folder() -> Path:
    """Where downloads go: `home`, but never into an installed package, which the next installation overwrites."""
    return Path() if home() == INSTALLED else home()


def find_checkpoints() -> Checkpoints:
    """The released set of `home()`, or where none of its weights is there and the small one is, the small one.

    Raises CheckpointError: the small set's `model.json` makes no sense.
    """
    found, tiny = released(home()), small(home())
    if _has_weights(found) or not _has_weights(tiny):
        return found
    return replace(tiny, suits=_recommended(tiny.unet.parents[1] / MODEL_FILE))


def find_parts(**paths: str | Path | None) -> Checkpoints:
    """The set that `set_of` finds, with the paths that are not None, by the names of `Checkpoints`, for its own."""
    checkpoints = set_of(paths.get("unet"))
    if None in paths.values():
        checkpoints.announce()
    given: dict[str, Any] = {name: Path(path) for name, path in paths.items() if path is not None}
    return replace(checkpoints, **given)


def released(root: Path) -> Checkpoints:
    """Where the released set is, under a folder of `checkpoints` and `models`."""
    return checkpoints_in(root / "checkpoints", root / "models" / "antelopev2")


def small(root: Path) -> Checkpoints:
    """Where the small set is, under a folder of `checkpoints` and `models`."""
    return replace(checkpoints_in(root / "checkpoints" / "tiny", root / "models" / "tiny" / "antelopev2"), tiny=True)


def checkpoints_in(folder: Path, face_models: Path) -> Checkpoints:
    """A set by its folder of Animation, SVD and DWPose, and its folder of face models."""
    svd, animation = folder / "SVD", folder / "Animation"
    return Checkpoints(
        svd=svd if (svd / "model_index.json").is_file() else svd / SVD_FOLDER,
        unet=animation / "unet.pth",
        pose_net=animation / "pose_net.pth",
        face_encoder=animation / "face_encoder.pth",
        arcface=animation / "glintr100_torch.pth",
        dwpose=folder / "DWPose",
        face_models=face_models,
    )


def find_file(path: Path) -> Path | None:
    """A weights file, or the same weights under the other ending, `.pth` or `.safetensors`; None where neither is."""
    candidates = (path, path.with_suffix(".safetensors"), path.with_suffix(".pth"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _has_weights(found: Checkpoints) -> bool:
    """Whether anything of a set is there: a weights file of any part."""
    files = [found.svd / "model_index.json", found.unet, found.pose_net, found.face_encoder, found.arcface]
    folders = [found.dwpose, found.face_models, found.face_models / "antelopev2"]
    return any(map(find_file, files)) or any(any(folder.glob("*.onnx")) for folder in folders)


def _recommended(path: Path) -> dict[str, float]:
    """What suits the small set, from its own description where there is one."""
    content = read_object(path, "restore it, or delete it") if path.is_file() else {}
    found = {name: content.get(name, default) for name, default in TINY.items()}
    for name, value in found.items():
        least = {"guidance_scale": -math.inf, "num_inference_steps": 1}.get(name, 16)
        kinds = int | float if name == "guidance_scale" else int
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < math.inf:
            raise CheckpointError(f"{path}: {name} is {value!r}; it must be a number from {least}")
    return found


def read_object(path: Path, remedy: str = "download it again") -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises CheckpointError, with a remedy."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; download the folder it belongs to again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):  # diffusers would take a string for a name on the hub
        raise CheckpointError(f"{path}: a {type(content).__name__} where a JSON object was due; {remedy}")
    return content
