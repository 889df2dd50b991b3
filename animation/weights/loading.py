"""The one reader of checkpoints: strict, memory-mapped, and never running what a file carries.

Models are built without memory on the meta device and take the file's tensors as their parameters, so that loading
needs the size of the result, not twice the size of the file. Sizes are read off tensors and configs.
"""

import contextlib
import json
from collections.abc import Callable
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
from animation.evaluation.i3d import I3D
from animation.evaluation.lpips import LPIPS
from animation.modules.arcface import ArcFace
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.weights.layout import SVD_FOLDER
from animation.weights.state_dicts import (
    DOWNLOAD_HINT,
    assign_state_dict,
    load_self_described,
    read_state_dict,
    recognise,
    resolve_weights_file,
)

VAE_CLASSES = ("AutoencoderKLTemporalDecoder", "AutoencoderTiny", "AutoencoderDC")
PROPERTIES_FILE = "checkpoint.json"  # beside the parts of a checkpoint: what its tensors do not tell


def load_pose_net(path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PoseNet:
    """Load `pose_net.pth` (or its `.safetensors` twin). Raises CheckpointError."""
    return load_self_described(PoseNet, path, dtype, device=device)


def load_face_encoder(path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> FaceEncoder:
    """Load `face_encoder.pth` (or its `.safetensors` twin). Raises CheckpointError."""
    return load_self_described(FaceEncoder, path, dtype, device=device)


def load_arcface(path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> ArcFace:
    """Load `glintr100_torch.pth` (or its `.safetensors` twin), or `glintr100.onnx`. Raises CheckpointError."""
    return load_self_described(ArcFace, path, dtype, device=device)


def load_i3d(path: str | Path, dtype: torch.dtype = torch.float32) -> I3D:
    """Load a state dict of I3D's PyTorch ports. Raises CheckpointError."""
    return load_self_described(I3D, path, dtype)


def load_lpips(backbone_path: str | Path, heads_folder: str | Path, dtype: torch.dtype = torch.float32) -> LPIPS:
    """Load LPIPS from torchvision's AlexNet or VGG-16 file and a folder of the released heads.

    Args:
        backbone_path: a classifier of ImageNet; its layers after the features are left out.
        heads_folder: holds `alex.pth` and `vgg.pth`.

    Raises:
        CheckpointError: a file is missing, damaged or of another network.
    """
    state = read_state_dict(backbone_path)
    features = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    try:
        net = LPIPS.config_from_shapes({name: tensor.shape for name, tensor in features.items()})["net"]
    except KeyError:
        raise CheckpointError(f"{backbone_path}: neither AlexNet nor VGG-16; {recognise(set(state))}") from None
    features.update(read_state_dict(Path(heads_folder) / f"{net}.pth"))
    return load_self_described(LPIPS, backbone_path, dtype, features)


def read_face_channel_order(face_encoder_path: str | Path) -> str | None:
    """The channel order (`rgb` or `bgr`) of the face crops that a FaceEncoder was trained with, if it says so.

    It stands in `checkpoint.json` beside the weights; the released weights carry none.
    """
    path = Path(face_encoder_path).with_name(PROPERTIES_FILE)
    if not path.is_file():
        return None
    order = _read_json(path).get("face_channel_order")
    if order not in ("rgb", "bgr", None):
        raise CheckpointError(f"{path}: face_channel_order is {order!r}; it must be rgb or bgr")
    return order


def resolve_svd_folder(path: str | Path, revision: str | None = None) -> Path:
    """The diffusers folder of SVD: `path` itself, or inside or above it as the downloads lay it out.

    Args:
        path: a folder, or a name on the Hugging Face hub whose files are already in its local cache.
        revision: of the hub name.

    Raises:
        CheckpointError: no `model_index.json` is found there. Nothing is downloaded.
    """
    path = Path(path)
    folders = [path, path / SVD_FOLDER, *([path.parent] if path.name == SVD_FOLDER else [])]
    if len(path.parts) == 2 and not path.exists():
        with contextlib.suppress(LocalEntryNotFoundError, HFValidationError, OSError):
            folders.append(Path(snapshot_download(path.as_posix(), revision=revision, local_files_only=True)))
    for folder in folders:
        if (folder / "model_index.json").is_file():
            return folder
    raise CheckpointError(
        f"{path}: no Stable Video Diffusion folder there (model_index.json not found); {DOWNLOAD_HINT}, which has it "
        "under SVD/, or stabilityai/stable-video-diffusion-img2vid-xt"
    )


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; download the folder it belongs to again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); download it again") from None
    if not isinstance(content, dict):  # diffusers would take a string for a name on the hub
        raise CheckpointError(f"{path}: a {type(content).__name__} where a JSON object was due; download it again")
    return content


def _build(make: Callable[[dict], Any], path: Path, empty: bool = True) -> Any:
    """Build a model, where `empty` without memory for its weights, or a processor, from its config file."""
    config = _read_json(path)
    try:
        with init_empty_weights() if empty else contextlib.nullcontext():
            return make(config)
    except Exception as error:  # each library has its own types for a config that makes no sense
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: describes nothing that can be built ({reason}); download it again") from None


def weights_file(folder: str | Path, stem: str, prefer_half: bool) -> Path:
    """The weights of a diffusers or transformers folder, full precision or the `fp16` variant, whichever is there."""
    folder = Path(folder)
    variants = ("", ".fp16")
    for variant in variants[::-1] if prefer_half else variants:
        for suffix in (".safetensors", ".bin"):
            path = folder / f"{stem}{variant}{suffix}"
            if path.is_file():
                return path
    raise CheckpointError(f"{folder}: no {stem}.safetensors or {stem}.fp16.safetensors there; {DOWNLOAD_HINT}")


def load_unet(
    path: str | Path, svd_folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PoseGuidedUNet:
    """Load `unet.pth`; its sizes are those of SVD's `unet/config.json`, whose own weights are never read.

    Raises:
        CheckpointError: the file or the config is missing, damaged, or one does not fit the other.
    """
    unet = _build(PoseGuidedUNet.from_config, resolve_svd_folder(svd_folder) / "unet" / "config.json")
    assign_state_dict(unet, read_state_dict(path), path, dtype, device)
    return unet


def new_unet(svd_folder: str | Path) -> PoseGuidedUNet:
    """SVD's UNet in float32 with an ID-Adapter that starts as a copy of its attention to the image token.

    Where the folder holds only the UNet's config and no weights, they are drawn from torch's global generator.

    Raises:
        CheckpointError: the folder is incomplete or damaged.
    """
    folder = resolve_svd_folder(svd_folder) / "unet"
    try:
        path = weights_file(folder, "diffusion_pytorch_model", prefer_half=False)
    except CheckpointError:
        path = folder / "config.json"
        unet = _build(PoseGuidedUNet.from_config, path, empty=False)
        state = unet.state_dict()
    else:
        unet = _build(PoseGuidedUNet.from_config, folder / "config.json")
        state = read_state_dict(path)
    copies = {name: name.replace(".processor.id_to_", ".to_") for name in unet.state_dict() if ".id_to_" in name}
    state |= {name: state[source].clone() for name, source in copies.items() if source in state}
    assign_state_dict(unet, state, path, torch.float32)
    return unet


def load_vae(
    folder: str | Path, dtype: torch.dtype = torch.float32, class_name: str | None = None, device: str = "cpu"
) -> nn.Module:
    """Load a VAE folder.

    Args:
        class_name: one of `VAE_CLASSES`, as `model_index.json` names it; None: as the folder's own config does.

    Raises:
        CheckpointError: the folder is incomplete or damaged, or its class is another.
    """
    config_path = Path(folder) / "config.json"
    class_name = class_name or _read_json(config_path).get("_class_name")
    if class_name not in VAE_CLASSES:
        raise CheckpointError(f"{folder}: its class is {class_name}; use one of {', '.join(VAE_CLASSES)}")
    vae = _build(getattr(diffusers, class_name).from_config, config_path)
    path = weights_file(folder, "diffusion_pytorch_model", prefer_half=dtype == torch.float16)
    assign_state_dict(vae, read_state_dict(path), path, dtype, device)
    return vae


def load_image_encoder(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> CLIPVisionModelWithProjection:
    """Load SVD's `image_encoder` folder. Raises CheckpointError."""
    encoder = _build(
        lambda config: CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), Path(folder) / "config.json"
    )
    path = weights_file(folder, "model", prefer_half=dtype == torch.float16)
    state = read_state_dict(path)
    state.pop("vision_model.embeddings.position_ids", None)  # older files hold this index, which is no weight
    assign_state_dict(encoder, state, path, dtype, device)
    return encoder


def load_scheduler(folder: str | Path) -> EulerDiscreteScheduler:
    """Load SVD's `scheduler` folder. Raises CheckpointError, also for a scheduler that does not predict v."""
    path = Path(folder) / "scheduler_config.json"
    scheduler = _build(EulerDiscreteScheduler.from_config, path)
    if scheduler.config.prediction_type != "v_prediction" or scheduler.config.timestep_type != "continuous":
        kind = f"{scheduler.config.prediction_type} at {scheduler.config.timestep_type} timesteps"
        raise CheckpointError(f"{path}: {kind}; SVD's has v_prediction at continuous ones: download it again")
    return scheduler


def load_components(
    svd_folder: str | Path,
    unet_path: str | Path,
    pose_net_path: str | Path,
    face_encoder_path: str | Path,
    dtype: torch.dtype = torch.float32,
    preview_vae_folder: str | Path | None = None,
    device: str = "cpu",
) -> dict:
    """Load everything that `AnimationPipeline` is made of, by the names of its arguments.

    On the device `meta` the networks have shapes alone: nothing but the files' heads is read, in seconds.

    Raises:
        CheckpointError: a file is missing or damaged, or the parts do not fit each other.
    """
    svd_folder = resolve_svd_folder(svd_folder)
    components = {
        "pose_net": load_pose_net(pose_net_path, dtype, device),
        "face_encoder": load_face_encoder(face_encoder_path, dtype, device),
        "unet": load_unet(unet_path, svd_folder, dtype, device),
        **load_svd_parts(svd_folder, dtype, device),
        "preview_vae": load_vae(preview_vae_folder, dtype, device=device) if preview_vae_folder else None,
    }
    check_fit(components, pose_net_path, face_encoder_path, svd_folder)
    return components


def load_svd_parts(svd_folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict:
    """Load what is used of SVD as it is: VAE, image encoder, scheduler and feature extractor, by these names.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    svd_folder = resolve_svd_folder(svd_folder)
    _, vae_class = _read_json(svd_folder / "model_index.json").get("vae") or (None, None)
    return {
        "vae": load_vae(svd_folder / "vae", dtype, vae_class, device),
        "image_encoder": load_image_encoder(svd_folder / "image_encoder", dtype, device),
        "scheduler": load_scheduler(svd_folder / "scheduler"),
        "feature_extractor": _build(
            lambda config: CLIPImageProcessorPil(**config),
            svd_folder / "feature_extractor" / "preprocessor_config.json",
        ),
    }


def component_files(
    svd_folder: str | Path,
    unet_path: str | Path,
    pose_net_path: str | Path,
    face_encoder_path: str | Path,
    dtype: torch.dtype = torch.float32,
    preview_vae_folder: str | Path | None = None,
) -> list[Path]:
    """The weights files that `load_components` reads for the same arguments. Raises CheckpointError."""
    svd_folder, half = resolve_svd_folder(svd_folder), dtype == torch.float16
    vae_folders = [svd_folder / "vae", *([preview_vae_folder] if preview_vae_folder else [])]
    return [
        *map(resolve_weights_file, (unet_path, pose_net_path, face_encoder_path)),
        weights_file(svd_folder / "image_encoder", "model", half),
        *(weights_file(folder, "diffusion_pytorch_model", half) for folder in vae_folders),
    ]


def check_fit(components: dict, pose_net_path, face_encoder_path, svd_folder) -> None:
    """Raise CheckpointError, naming the path, where the sizes of the parts do not fit each other."""
    unet, vae = components["unet"].config, components["vae"].config
    face_encoder = components["face_encoder"].config
    widths = [
        (
            pose_net_path,
            "features for a UNet of first width",
            components["pose_net"].config.out_channels,
            unet.block_out_channels[0],
        ),
        (face_encoder_path, "tokens for cross-attention of width", face_encoder.dim, unet.cross_attention_dim),
        (
            face_encoder_path,
            "fuses image tokens of width",
            face_encoder.image_dim,
            components["image_encoder"].config.projection_dim,
        ),
        (svd_folder, "a VAE for a UNet of input channels", unet.out_channels + vae.latent_channels, unet.in_channels),
    ]
    for path, what, given, needed in widths:
        if given != needed:
            raise CheckpointError(f"{path}: {what} {given}, but this checkpoint has {needed}; use one checkpoint's")
