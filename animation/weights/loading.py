"""The one reader of checkpoints: strict, memory-mapped, and never running what a file carries.

Models are built without memory on the meta device and take the file's tensors as their parameters, so that loading
needs the size of the result, not twice the size of the file. Sizes are read off tensors and configs.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import EulerDiscreteScheduler
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.errors import CheckpointError
from animation.flags import shown
from animation.modules.arcface import ArcFace
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.weights.layout import SVD_FOLDER, find_parts, read_object
from animation.weights.state_dicts import (
    DOWNLOAD_HINT,
    assign_state_dict,
    load_self_described,
    read_state_dict,
    resolve_weights_file,
)

VAE_CLASSES = ("AutoencoderKLTemporalDecoder", "AutoencoderTiny", "AutoencoderDC")
PROPERTIES_FILE = "checkpoint.json"  # beside the parts of a checkpoint: what its tensors do not tell

LARGEST_NUMBER, MOST_LAYERS = 100_000, 100  # in a config

# Each takes (path, dtype=torch.float32, device="cpu") of a file or its `.safetensors` twin, and raises CheckpointError.
load_pose_net = partial(load_self_described, PoseNet)  # pose_net.pth
load_face_encoder = partial(load_self_described, FaceEncoder)  # face_encoder.pth
load_arcface = partial(load_self_described, ArcFace)  # glintr100_torch.pth, or glintr100.onnx


def read_face_channel_order(face_encoder_path: str | Path) -> str | None:
    """The channel order (`rgb`, `bgr`, None: not said) of the face crops that a FaceEncoder was trained with."""
    path = Path(face_encoder_path).with_name(PROPERTIES_FILE)
    order = read_object(path).get("face_channel_order") if path.is_file() else None
    if order not in ("rgb", "bgr", None):
        raise CheckpointError(f"{path}: face_channel_order is {order!r}; it must be rgb or bgr")
    return order


def resolve_svd_folder(path: str | Path, revision: str | None = None) -> Path:
    """The diffusers folder of SVD: `path` itself, or inside or above it as the downloads lay it out.

    It may be a name on the Hugging Face hub, at a revision, whose files are in the local cache. Nothing is downloaded.
    Raises CheckpointError: no `model_index.json` is found there.
    """
    path = Path(path)
    folders = [path, path / SVD_FOLDER, *([path.parent] if path.name == SVD_FOLDER else [])]
    if len(path.parts) == 2 and not path.exists():
        with contextlib.suppress(LocalEntryNotFoundError, HFValidationError, OSError):
            folders.append(Path(snapshot_download(path.as_posix(), revision=revision, local_files_only=True)))
    for folder in folders:
        if (folder / "model_index.json").is_file():
            return folder
    remedy = f"{DOWNLOAD_HINT}, which has it under SVD/, or stabilityai/{SVD_FOLDER}"
    raise CheckpointError(f"{path}: no Stable Video Diffusion folder there (model_index.json not found); {remedy}")


def _build(make: Callable[[dict], Any], path: Path, empty: bool = True) -> Any:
    """Build a model, where `empty` without memory for its weights, or a processor, from its config file."""
    config = read_object(path)
    try:
        _check_numbers(config)
        with init_empty_weights() if empty else contextlib.nullcontext():
            return make(config)
    except Exception as error:  # each library has its own types for a config that makes no sense
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: describes nothing that can be built ({reason}); download it again") from None


def _check_numbers(config: dict) -> None:
    """Raise ValueError for a number beyond any network's, which would be built without end."""
    for name, value in config.items():
        most = MOST_LAYERS if "layers" in name else LARGEST_NUMBER
        if isinstance(value, dict):
            _check_numbers(value)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, int | float) and not abs(part) <= most:
                raise ValueError(f"{name} is {shown(part)}")


def weights_file(folder: str | Path, stem: str, prefer_half: bool) -> Path:
    """The weights of a diffusers or transformers folder, full precision or the `fp16` variant, whichever is there."""
    for variant in (".fp16", "") if prefer_half else ("", ".fp16"):
        for suffix in (".safetensors", ".bin"):
            path = Path(folder) / f"{stem}{variant}{suffix}"
            if path.is_file():
                return path
    raise CheckpointError(f"{folder}: no {stem}.safetensors or {stem}.fp16.safetensors there; {DOWNLOAD_HINT}")


def load_unet(
    path: str | Path, svd_folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PoseGuidedUNet:
    """Load `unet.pth`, sized by SVD's `unet/config.json`, whose weights are never read. Raises CheckpointError."""
    unet = _build(PoseGuidedUNet.from_config, resolve_svd_folder(svd_folder) / "unet" / "config.json")
    return assign_state_dict(unet, read_state_dict(path), path, dtype, device)


def new_unet(svd_folder: str | Path) -> PoseGuidedUNet:
    """SVD's UNet in float32 with an ID-Adapter that starts as a copy of its attention to the image token.

    Where the folder holds only the UNet's config and no weights, they are drawn from torch's global generator. Raises
    CheckpointError.
    """
    folder = resolve_svd_folder(svd_folder) / "unet"
    path = None
    with contextlib.suppress(CheckpointError):
        path = weights_file(folder, "diffusion_pytorch_model", prefer_half=False)
    unet = _build(PoseGuidedUNet.from_config, folder / "config.json", empty=path is not None)
    state = read_state_dict(path) if path else unet.state_dict()
    copies = {name: name.replace(".processor.id_to_", ".to_") for name in unet.state_dict() if ".id_to_" in name}
    state |= {name: state[source].clone() for name, source in copies.items() if source in state}
    return assign_state_dict(unet, state, path or folder, torch.float32)


def load_vae(
    folder: str | Path, dtype: torch.dtype = torch.float32, class_name: str | None = None, device: str = "cpu"
) -> nn.Module:
    """Load a VAE folder, of one of `VAE_CLASSES`: `class_name`, or what its config names. Raises CheckpointError."""
    config_path = Path(folder) / "config.json"
    class_name = class_name or read_object(config_path).get("_class_name")
    if class_name not in VAE_CLASSES:
        raise CheckpointError(f"{folder}: its class is {class_name}; use one of {', '.join(VAE_CLASSES)}")
    vae = _build(getattr(diffusers, class_name).from_config, config_path)
    path = weights_file(folder, "diffusion_pytorch_model", prefer_half=dtype == torch.float16)
    return assign_state_dict(vae, read_state_dict(path), path, dtype, device)


def load_image_encoder(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> CLIPVisionModelWithProjection:
    """Load SVD's `image_encoder` folder. Raises CheckpointError."""
    config_path = Path(folder) / "config.json"

    def make(config: dict) -> CLIPVisionModelWithProjection:
        own = {name: value for name, value in config.items() if not name.endswith("attn_implementation")}
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**own))  # not with code that the config names on the hub

    encoder = _build(make, config_path)
    path = weights_file(folder, "model", prefer_half=dtype == torch.float16)
    state = read_state_dict(path)
    state.pop("vision_model.embeddings.position_ids", None)  # older files hold this index, which is no weight
    return assign_state_dict(encoder, state, path, dtype, device)


def load_scheduler(folder: str | Path) -> EulerDiscreteScheduler:
    """Load SVD's `scheduler` folder. Raises CheckpointError, also for a scheduler that does not predict v."""
    path = Path(folder) / "scheduler_config.json"
    scheduler = _build(EulerDiscreteScheduler.from_config, path)
    if scheduler.config.prediction_type != "v_prediction" or scheduler.config.timestep_type != "continuous":
        kind = f"{scheduler.config.prediction_type} at {scheduler.config.timestep_type} timesteps"
        raise CheckpointError(f"{path}: {kind}; SVD's has v_prediction at continuous ones: download it again")
    return scheduler


def load_components(
    *,
    svd_folder: str | Path | None = None,
    unet_path: str | Path | None = None,
    pose_net_path: str | Path | None = None,
    face_encoder_path: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    preview_vae_folder: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Load everything that `AnimationPipeline` is made of, by the names of its arguments.

    Parts that are None are what `layout.find_parts` finds, but for the preview VAE. On the device `meta` the networks
    have shapes alone: nothing but the files' heads is read, in seconds. Raises CheckpointError: a file is missing or
    damaged, or the parts do not fit each other.
    """
    found = find_parts(svd=svd_folder, unet=unet_path, pose_net=pose_net_path, face_encoder=face_encoder_path)
    components = {
        "pose_net": load_pose_net(found.pose_net, dtype, device),
        "face_encoder": load_face_encoder(found.face_encoder, dtype, device),
        "unet": load_unet(found.unet, found.svd, dtype, device),
        **load_svd_parts(found.svd, dtype, device),
        "preview_vae": load_vae(preview_vae_folder, dtype, device=device) if preview_vae_folder else None,
    }
    check_fit(components, found.pose_net, found.face_encoder, found.svd)
    return components


def load_svd_parts(svd_folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Any]:
    """Load what is used of SVD as it is: VAE, image encoder, scheduler, feature extractor. Raises CheckpointError."""
    svd_folder = resolve_svd_folder(svd_folder)
    _, vae_class = read_object(svd_folder / "model_index.json").get("vae") or (None, None)
    preprocessor = svd_folder / "feature_extractor" / "preprocessor_config.json"
    return {
        "vae": load_vae(svd_folder / "vae", dtype, vae_class, device),
        "image_encoder": load_image_encoder(svd_folder / "image_encoder", dtype, device),
        "scheduler": load_scheduler(svd_folder / "scheduler"),
        "feature_extractor": _build(lambda config: CLIPImageProcessorPil(**config), preprocessor),
    }


def component_files(
    *, svd_folder: Path, dtype: torch.dtype, preview_vae_folder: str | Path | None, **paths: str | Path
) -> list[Path]:
    """The weights files that `load_components` reads for the same arguments. Raises CheckpointError."""
    svd_folder, half = resolve_svd_folder(svd_folder), dtype == torch.float16
    vae_folders = [folder for folder in (svd_folder / "vae", preview_vae_folder) if folder]
    return [
        *map(resolve_weights_file, paths.values()),
        weights_file(svd_folder / "image_encoder", "model", half),
        *(weights_file(folder, "diffusion_pytorch_model", half) for folder in vae_folders),
    ]


def check_fit(
    components: dict[str, Any], pose_net_path: str | Path, face_encoder_path: str | Path, svd_folder: str | Path
) -> None:
    """Raise CheckpointError, naming the path, where the sizes of the parts do not fit each other."""
    names = ("unet", "vae", "face_encoder", "pose_net", "image_encoder")
    unet, vae, face_encoder, pose_net, image_encoder = (components[name].config for name in names)
    fits = [
        (pose_net_path, "features for a UNet of first width", pose_net.out_channels, unet.block_out_channels[0]),
        (face_encoder_path, "tokens for cross-attention of width", face_encoder.dim, unet.cross_attention_dim),
        (face_encoder_path, "fuses image tokens of width", face_encoder.image_dim, image_encoder.projection_dim),
        (svd_folder, "a VAE for a UNet of input channels", unet.out_channels + vae.latent_channels, unet.in_channels),
    ]
    for path, what, given, needed in fits:
        if given != needed:
            raise CheckpointError(f"{path}: {what} {given}, but this checkpoint has {needed}; use one checkpoint's")
