"""What is trained: loading or starting the three parts, choosing parameters, adapters, and their released layout."""

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
    read_face_channel_order,
    resolve_svd_folder,
)

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
            dim, image_dim = unet.config.cross_attention_dim, svd["image_encoder"].config.projection_dim
            heads = max(1, dim // HEAD_DIM)
            face_encoder = FaceEncoder(dim=dim, image_dim=image_dim, heads=heads, feed_forward_dim=4 * dim)
    parts = TrainableParts(pose_net, face_encoder, unet).requires_grad_(False).train()
    components = {**svd, "pose_net": pose_net, "face_encoder": face_encoder, "unet": unet}
    check_fit(components, settings.posenet_model_finetune_path, settings.face_encoder_finetune_path, svd_folder)
    return parts, svd


def choose_channel_order(settings: TrainingSettings) -> str:
    """The channel order of face crops: as set, else as the finetuned checkpoint has it, else what insightface expects.

    The released checkpoint does not say that it was trained with rgb.
    """
    if settings.face_channel_order or not settings.finetune_mode:
        return settings.face_channel_order or "bgr"
    return read_face_channel_order(settings.face_encoder_finetune_path) or "rgb"


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
    idle: list[str] = []  # modules
    for name, module in unet.named_modules():
        if isinstance(module, Attention) and isinstance(module.processor, IDAdapterAttnProcessor):
            idle.append(f"{name}.to_k")
        elif isinstance(module, Attention) and isinstance(module.processor, ImageTokenAttnProcessor):
            idle += [f"{name}.to_q", f"{name}.to_k", f"{name.removesuffix('.attn2')}.norm2"]
    return {f"{name}.{parameter}" for name in idle for parameter, _ in unet.get_submodule(name).named_parameters()}


def choose_trainable(parts: TrainableParts, settings: TrainingSettings) -> float | None:
    """Set `requires_grad` of every parameter, or add adapters; returns the scale of their output, None without them.

    `--trainable method` is PoseNet, FaceEncoder and the UNet's parameters with `attentions` in their names; `all` is
    everything. `idle_parameters` stay frozen either way.
    """
    idle = idle_parameters(parts.unet)
    if settings.lora_rank:
        return _add_adapters(parts.unet, settings, idle)
    parts.pose_net.requires_grad_(True)
    parts.face_encoder.requires_grad_(True)
    for name, parameter in parts.unet.named_parameters():
        parameter.requires_grad_((settings.trainable == "all" or "attentions" in name) and name not in idle)
    return None


def _add_adapters(unet: PoseGuidedUNet, settings: TrainingSettings, idle: set[str]) -> float:
    """Put trainable low-rank adapters (LoRA, arXiv 2106.09685), which start by changing nothing, on the attention."""
    from peft import LoraConfig, inject_adapter_in_model

    alpha = settings.lora_alpha or settings.lora_rank
    targets = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ADAPTED_LAYERS) and f"{name}.weight" not in idle
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        inject_adapter_in_model(LoraConfig(r=settings.lora_rank, lora_alpha=alpha, target_modules=targets), unet)
    return alpha / settings.lora_rank


def _merge_adapters(state: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """A UNet's state dict with its adapters added to the weights, W + scale · B·A, and the released names."""
    merged = {}
    for name, tensor in state.items():
        layer, found, kind = name.partition(".base_layer.")
        if found and kind == "weight":
            down, up = (state[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            tensor = (tensor.float() + scale * (up.float() @ down.float())).to(tensor.dtype)
        if ".lora_" not in name:
            merged[f"{layer}.{kind}" if found else name] = tensor
    return merged


def split_parts(state: Mapping[str, torch.Tensor], adapter_scale: float | None) -> dict[str, dict[str, torch.Tensor]]:
    """`TrainableParts`' state dict as a state dict of each part, float32, contiguous, on the CPU.

    Adapters are merged with their scale, alpha / rank; None where there are none.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"pose_net": {}, "face_encoder": {}, "unet": {}}
    for name, tensor in state.items():
        part, _, inner = name.partition(".")
        parts[part][inner] = tensor.detach().to("cpu", torch.float32).contiguous()
    if adapter_scale is not None:
        parts["unet"] = _merge_adapters(parts["unet"], adapter_scale)
    return parts
