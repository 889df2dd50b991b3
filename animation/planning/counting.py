"""Bytes and arithmetic of code that runs on torch's meta device, counted while it runs.

Tensors there have shapes and no numbers, so that networks of any size run in seconds and without memory.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from animation.quantization import stored_tensors

META = torch.device("meta")
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention
WIDEST_FLASH_HEAD = 128


class MetaCounter(TorchDispatchMode):
    """While it is on, counts the bytes of all meta tensors alive, and the arithmetic.

    What leaves the meta device comes out as ones on the CPU.

    Args:
        workspace: also count what kernels take for themselves, see `cuda_workspace`; None: tensors alone.

    Attributes:
        now, peak: bytes alive, and the most that were; may be set back.
        flops: floating-point operations of products, convolutions and attention, two for a product and a sum.
    """

    def __init__(self, workspace: Callable[..., int] | None = None):
        super().__init__()
        self.now = self.peak = 0
        self.flops = 0.0
        self._workspace = workspace
        self._sizes: dict[int, int] = {}  # bytes by storage
        self.paused = False  # then tensors that are made stand for others on the host and do not count

    def hold(self, network: torch.nn.Module) -> None:
        """Count a network that is there already."""
        for tensor in stored_tensors(network):
            self._add(tensor, tensor.untyped_storage().nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_meta = any(x.is_meta for x in inputs)
        if on_meta:
            if func is torch.ops.aten._local_scalar_dense.default:
                return torch.ones((), dtype=inputs[0].dtype).item()
            if func is torch.ops.aten.copy_.default and not args[0].is_meta:
                return args[0]
            if func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or META) != META:
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        for tensor in inputs:  # made before counting began
            self._add(tensor, 0)
        output = func(*args, **kwargs)
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor, 0 if self.paused else tensor.untyped_storage().nbytes())
        if on_meta:
            if self._workspace is not None:
                self.peak = max(self.peak, self.now + self._workspace(func, args, output))
            if (count := flop_registry.get(func.overloadpacket)) is not None:
                self.flops += count(*args, **kwargs, out_val=output)
        return output

    def _add(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.is_meta and key not in self._sizes:
            self._sizes[key] = size
            weakref.finalize(storage, self._remove, key).atexit = False
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class FusedAttention(TorchFunctionMode):
    """Attention as the devices' kernels do it, without its matrix of logits, which the meta device would make."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            inputs = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return ATTENTION(inputs["query"], inputs["key"], inputs["value"])[0]
        return func(*args, **kwargs)


def cuda_workspace(func: Any, args: tuple, output: Any) -> int:
    """Bytes that an operation's kernel takes for itself on CUDA while it works.

    cuDNN copies a convolution's input, output and weights to channels-last and back. Attention with heads wider than
    128 gathers its output in float32.
    """
    if func.overloadpacket is ATTENTION:
        return args[0].numel() * 4 if args[0].shape[-1] > WIDEST_FLASH_HEAD else 0
    if func.overloadpacket is torch.ops.aten.convolution:
        return sum(tensor.nbytes for tensor in (args[0], args[1], output))
    return 0
