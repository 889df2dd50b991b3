"""Which checkpoints are used where no flag names one: the released ones, or the small ones that come along.

    checkpoints/{Animation,SVD,DWPose}  models/antelopev2                    the released layout
    checkpoints/tiny/{Animation,SVD,DWPose}  models/tiny/antelopev2          the small ones, trained on drawn figures

The parts of a set were trained for each other, so that sets are never mixed: the small one is used only where nothing
of the released one is there.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from animation.errors import CheckpointError
from DWPose.wholebody import MODEL_FILES

logger = logging.getLogger(__name__)

SVD_FOLDER = "stable-video-diffusion-img2vid-xt"
MODEL_FILE = "model.json"  # of the small set: what it was trained for
TINY = {"width": 128, "height": 128, "canvas": 384, "guidance_scale": 1.0}  # pixels; where that file does not say


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
        width, height: the size that it is best at, pixels; None: the settings' own default.
        canvas: the short side of what its skeletons are drawn on, pixels; None: DWPose's own.
        guidance_scale: that suits it; None: the settings' own default.
    """

    svd: Path
    unet: Path
    pose_net: Path
    face_encoder: Path
    arcface: Path
    dwpose: Path
    face_models: Path
    tiny: bool = False
    width: int | None = None
    height: int | None = None
    canvas: int | None = None
    guidance_scale: float | None = None

    @property
    def dwpose_files(self) -> tuple[Path, ...]:
        """The person detector and the pose estimator."""
        return tuple(self.dwpose / name for name in MODEL_FILES)

    def announce(self) -> None:
        """Say loudly in the log where this is the small set."""
        if self.tiny:
            logger.warning("NO RELEASED WEIGHTS in checkpoints/ and models/: the SMALL networks in %s are used, which "
                           "know drawn figures alone and work at %d×%d pixels; download_weights.py fetches the "
                           "released ones", self.unet.parents[1], self.width, self.height)  # fmt: skip


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
    return Checkpoints(**tiny, tiny=True, **_recommended(root / "checkpoints" / "tiny" / MODEL_FILE))


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
    files = [file for name in ("unet", "pose_net", "face_encoder", "arcface")
             for file in (paths[name], paths[name].with_suffix(".safetensors"))]  # fmt: skip
    folders = [paths["dwpose"], paths["face_models"], paths["face_models"] / "antelopev2"]
    return (
        any(file.is_file() for file in files)
        or (paths["svd"] / "model_index.json").is_file()
        or any(any(folder.glob("*.onnx")) for folder in folders)
    )


def _recommended(path: Path) -> dict[str, float]:
    """Width, height, canvas and guidance, from the small set's own description where there is one."""
    content = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON ({error}); restore it, or delete it") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a {type(content).__name__} where a JSON object was due; restore it, or delete "
                              "it")  # fmt: skip
    found = {name: content.get(name, default) for name, default in TINY.items()}
    guidance = found.pop("guidance_scale")
    if not isinstance(guidance, int | float) or isinstance(guidance, bool) or not math.isfinite(guidance):
        raise CheckpointError(f"{path}: guidance_scale is {guidance!r}; it must be a number")
    for name, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 16:
            raise CheckpointError(f"{path}: {name} is {value!r}; it must be a whole number of pixels from 16")
    return {**found, "guidance_scale": guidance}
