"""What is trained: loading or starting the three parts, choosing parameters, adapters, and their released layout."""

import logging
from collections.abc import Mapping

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from animation.modules.attention_processor import IDAdapterAttnProcessor, ImageTokenAttnProcessor
from animation.modules.face_encoder import HEAD_DIM, FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.training.plan import Purpose, random_stream
from animation.training.settings import TrainingSettings
from animation.training.step import TrainableParts
from animation.weights.loading import (
    check_fit,
    load_face_encoder,
    load_pose_net,
    load_svd_parts,
    load_unet,
    new_unet,
    resolve_svd_folder,
)

logger = logging.getLogger(__name__)

PART_NAMES = ("pose_net", "face_encoder", "unet")
ADAPTED_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "processor.id_to_k", "processor.id_to_v")


def load_models(settings: TrainingSettings) -> tuple[TrainableParts, dict]:
    """The parts to train, in float32 and frozen, and SVD's own parts by name, as `load_svd_parts` returns them.

    Finetuning starts from the three given files. Else the UNet is SVD's, its `id_to_k` and `id_to_v` are copies of
    `to_k` and `to_v`, and PoseNet and FaceEncoder are new, drawn from the seed.

    Raises:
        CheckpointError: a file is missing or damaged, or the parts do not fit each other.
    """
    svd_folder = resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision)
    svd = load_svd_parts(svd_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random_stream(settings.seed, Purpose.WEIGHTS).integers(2**63)))
        if settings.finetune_mode:
            unet = load_unet(settings.unet_model_finetune_path, svd_folder)
            pose_net = load_pose_net(settings.posenet_model_finetune_path)
            face_encoder = load_face_encoder(settings.face_encoder_finetune_path)
        else:
            unet = new_unet(svd_folder)
            pose_net = PoseNet(out_channels=unet.config.block_out_channels[0])
            face_encoder = new_face_encoder(unet.config.cross_attention_dim, svd["image_encoder"].config.projection_dim)
    parts = TrainableParts(pose_net, face_encoder, unet).requires_grad_(False).train()
    components = {**svd, "pose_net": pose_net, "face_encoder": face_encoder, "unet": unet}
    check_fit(components, settings.posenet_model_finetune_path, settings.face_encoder_finetune_path, svd_folder)
    return parts, svd


def new_face_encoder(dim: int, image_dim: int) -> FaceEncoder:
    """A FaceEncoder with random weights, of the released shape, for tokens of `dim` and image tokens of `image_dim`."""
    return FaceEncoder(dim=dim, image_dim=image_dim, heads=max(1, dim // HEAD_DIM), feed_forward_dim=4 * dim)


def start_training(parts: TrainableParts, settings: TrainingSettings) -> float | None:
    """Choose what is trained, or add adapters; returns the scale of the adapters' output, None without them."""
    if settings.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
    if not settings.lora_rank:
        choose_trainable(parts, settings.trainable)
        return None
    alpha = settings.lora_alpha or settings.lora_rank
    add_adapters(parts.unet, settings.lora_rank, alpha, settings.seed)
    return alpha / settings.lora_rank


def convert_frozen(parts: TrainableParts, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Convert parameters that are not trained; returns them by name as they were, for the checkpoints."""
    exact = {}
    for name, parameter in parts.named_parameters():
        if not parameter.requires_grad:
            exact[name] = parameter.data
            parameter.data = parameter.data.to(dtype)
    return exact


def idle_parameters(unet: PoseGuidedUNet) -> set[str]:
    """The names of parameters that the output does not depend on, and which get no gradient.

    With one image token, attention returns its value whatever its key and the query are.
    """
    names: set[str] = set()
    for name, module in unet.named_modules():
        if not isinstance(module, Attention):
            continue
        if isinstance(module.processor, IDAdapterAttnProcessor):
            names |= {f"{name}.to_k.{parameter}" for parameter, _ in module.to_k.named_parameters()}
        elif isinstance(module.processor, ImageTokenAttnProcessor):
            for layer in ("to_q", "to_k"):
                names |= {f"{name}.{layer}.{p}" for p, _ in getattr(module, layer).named_parameters()}
            block = name.removesuffix(".attn2")
            names |= {f"{block}.norm2.{p}" for p, _ in unet.get_submodule(f"{block}.norm2").named_parameters()}
    return names


def choose_trainable(parts: TrainableParts, trainable: str) -> None:
    """Set `requires_grad` of every parameter.

    Args:
        trainable: `method` is PoseNet, FaceEncoder and the UNet's parameters with `attentions` in their names; `all`
            is everything. `idle_parameters` stay frozen either way.
    """
    idle = idle_parameters(parts.unet)
    parts.pose_net.requires_grad_(True)
    parts.face_encoder.requires_grad_(True)
    for name, parameter in parts.unet.named_parameters():
        parameter.requires_grad_((trainable == "all" or "attentions" in name) and name not in idle)


def add_adapters(unet: PoseGuidedUNet, rank: int, alpha: float, seed: int) -> None:
    """Put trainable low-rank adapters (LoRA, arXiv 2106.09685) on the UNet's attention layers.

    Args:
        rank: of the adapters.
        alpha: their output is scaled by alpha / rank.
        seed: of their weights; they start by changing nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    idle = idle_parameters(unet)
    targets = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ADAPTED_LAYERS) and f"{name}.weight" not in idle
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), unet)


def merge_adapters(state: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """A UNet's state dict with its adapters added to the weights, W + scale · B·A, and the released names."""
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            layer, kind = name.split(".base_layer.")
            name = f"{layer}.{kind}"
            if kind == "weight":
                down, up = (state[f"{layer}.lora_{side}.default.weight"] for side in "AB")
                tensor = (tensor.float() + scale * (up.float() @ down.float())).to(tensor.dtype)
        merged[name] = tensor
    return merged


def split_parts(state: Mapping[str, torch.Tensor], adapter_scale: float | None) -> dict[str, dict[str, torch.Tensor]]:
    """`TrainableParts`' state dict as a state dict of each part, float32, contiguous, on the CPU, adapters merged.

    Args:
        adapter_scale: alpha / rank; None where there are no adapters.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in PART_NAMES}
    for name, tensor in state.items():
        part, _, inner = name.partition(".")
        parts[part][inner] = tensor.detach().to("cpu", torch.float32).contiguous()
    if adapter_scale is not None:
        parts["unet"] = merge_adapters(parts["unet"], adapter_scale)
    return parts


def default_channel_order(settings: TrainingSettings, stored: str | None) -> str:
    """The channel order of face crops: as set, else as the finetuned checkpoint has it, else what insightface expects.

    Args:
        stored: what the finetuned checkpoint says, or None: the released one says nothing and was trained with rgb.
    """
    if settings.face_channel_order:
        return settings.face_channel_order
    return (stored or "rgb") if settings.finetune_mode else "bgr"
