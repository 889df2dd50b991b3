"""The UNet's linear layers with weights of eight bits, by torchao (`--quantize`)."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from animation.errors import InputError

FP8_CAPABILITY = 8, 9  # of a GPU that computes in fp8: Ada, Hopper and later
FOLDED = "to_q", "to_out.0"  # of spatial cross-attention: `folded_attention` multiplies their weights by others


def check_quantization(name: str, device: torch.device) -> None:
    """Raise InputError where a `--quantize` of int8 or fp8 is not for a device, or torchao is missing."""
    if name == "none":
        return
    if importlib.util.find_spec("torchao") is None:
        raise InputError(f'--quantize {name}: torchao is not installed; pip install ".[quantize]"')
    if name == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY):
        raise InputError(f"--quantize fp8: {device} does not compute in fp8, as Ada and Hopper GPUs do; use int8")


def quantize(unet: nn.Module, name: str) -> None:
    """Store the weights of a UNet's linear layers in eight bits, int8 or fp8, with one float32 scale for each output.

    Products are computed in the dtype of the features. Convolutions stay as they are, and so do the two layers of
    spatial cross-attention that are folded into the ID-Adapter, 3 % of the linear layers' weights.
    """
    if name == "none":
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[name](set_inductor_config=False)
    quantize_(unet, config, filter_fn=_is_quantized)


def _is_quantized(layer: nn.Module, name: str) -> bool:
    spatial, _, part = name.partition(".attn2.")
    return isinstance(layer, nn.Linear) and not (part in FOLDED and ".temporal_" not in spatial)


def stored_tensors(network: nn.Module) -> Iterator[Tensor]:
    """The plain tensors of a network, of which each quantised weight has several."""
    for tensor in (*network.parameters(), *network.buffers()):
        yield from _plain(tensor)


def _plain(tensor: Any) -> Iterator[Tensor]:
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))
