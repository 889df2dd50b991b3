"""Where and how to compute: device, number format, and the levers that trade time for memory."""

import ctypes
import logging
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from animation.errors import InputError
from animation.modules.unet import PoseGuidedUNet
from animation.parallel import Processes
from animation.pipeline import AnimationPipeline

logger = logging.getLogger(__name__)

MALLOC_OPTIONS = {-4: 0, -1: -1}  # glibc's M_MMAP_MAX: map nothing; M_TRIM_THRESHOLD: give nothing back
COMPILED_VARIANTS = 256  # of blocks: their kinds, widths, numbers of pixels and of guidance branches
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str) -> torch.device:
    """The device that a `--device` of auto, cuda, cuda:N, mps or cpu means. Raises InputError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: unknown; use auto, cuda, cuda:N, mps or cpu") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; check the "
            "driver and that torch is a CUDA build, or use --device cpu"
        )
    if device.type == "mps" and not torch.mps.is_available():
        raise InputError(f"--device {name}: not available here; use --device cpu")
    if device.type not in ("cuda", "mps", "cpu"):
        raise InputError(f"--device {name}: not supported; use auto, cuda, cuda:N, mps or cpu")
    return device


def join(processes: Processes, name: str) -> torch.device:
    """Connect the processes of a video, and choose this one's device: of several GPUs the one of its number.

    Raises InputError where `--device` does not do for as many processes.
    """
    device = choose_device(name)
    if processes.count > 1 and (device.type == "mps" or device.index is not None):
        raise InputError(f"--device {name} for {processes.count} processes: give cuda, of which each takes one, or cpu")
    if processes.count > 1 and device.type == "cuda":
        device = choose_device(f"cuda:{processes.local_rank}")
        torch.cuda.set_device(device)
    processes.connect(device)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format that a `--dtype` of auto (fp16 on CUDA, else fp32), fp16, bf16 or fp32 means. Raises InputError."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: unknown; use auto, fp16, bf16 or fp32")
    if name == "fp16" and device.type == "cpu":
        raise InputError("--dtype fp16 on a CPU: it has no fast half-precision arithmetic; use bf16 or fp32 there")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("--dtype bf16: this GPU does not compute in it; use fp16 or fp32")
    return DTYPES[name]


def fast_dtype(name: str, device: torch.device) -> str:
    """The `--dtype` where speed counts more than last digits: auto is bf16 on a CPU that computes in it."""
    return "bf16" if name == "auto" and device.type == "cpu" and computes_in_bf16() else name


def computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16. Others convert each number to float32, and take ten times as long."""
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def place(pipeline: AnimationPipeline, device: torch.device, offload: str = "none", vae_device: str = "same") -> None:
    """Put a pipeline on a device. Raises InputError for offloading where there is no accelerator.

    Args:
        offload: `none` keeps every model there; `model` moves one model at a time there; `sequential` one layer.
        vae_device: `same`, or `cpu` to encode and decode there, in float32.
    """
    if offload != "none" and device.type == "cpu":
        raise InputError(
            f"--offload {offload}: it moves models between CPU and GPU, but the device is the CPU; use none"
        )
    on_host = [name for name in ("vae", "preview_vae") if vae_device == "cpu" and getattr(pipeline, name) is not None]
    pipeline._exclude_from_cpu_offload = [*pipeline._exclude_from_cpu_offload, *on_host]
    offloaded = [name for name in pipeline.model_cpu_offload_seq.split("->") if name not in on_host]
    pipeline.model_cpu_offload_seq = "->".join(offloaded)
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    for name in on_host:
        torch.nn.Module.to(getattr(pipeline, name), "cpu", torch.float32)


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next tensors, where its C library is glibc.

    Else each large tensor is mapped anew, and the kernel clears every page of it: a fifth of a CPU's time.
    """
    if platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def compile_blocks(unet: PoseGuidedUNet, backend: str | Callable = "inductor") -> None:
    """Compile a UNet's blocks as they first run, each kind once for all that are alike.

    What is compiled is kept for later runs in the user's cache folder, or where TORCHINDUCTOR_CACHE_DIR says. Raises
    InputError where there is no C++ compiler, which it needs on any device.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"--compile: {compiler} is not installed; install a C++ compiler, or leave --compile out")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches / "stableanimator" / "compiled"))
    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    unet.compile_repeated_blocks(backend=backend)


def use_xformers(pipeline: AnimationPipeline, device: torch.device) -> None:
    """Run self-attention through xformers' kernels instead of torch's. Raises InputError where they cannot run."""
    try:
        if device.type != "cuda":
            raise ValueError("its kernels run on CUDA alone")
        for layer in pipeline.unet.modules():
            if isinstance(layer, Attention) and isinstance(layer.processor, AttnProcessor2_0):
                layer.set_use_memory_efficient_attention_xformers(True)
    except (ImportError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = "it is not installed" if isinstance(error, ImportError) else error
        raise InputError(f"--attention xformers: {reason}; use --attention sdpa, the default") from None


def memory_remedies(
    device: str,
    dtype: str,
    offload: str,
    cfg_batch: str,
    decode_chunk_size: int,
    vae_device: str,
    tile_size: int,
    quantize: str = "none",
) -> list[str]:
    """What would lower the memory need of a run with these settings, the cheapest in time or quality first."""
    on_gpu = not device.startswith("cpu")
    levers = [
        (dtype == "fp32", f"--dtype {'fp16' if on_gpu else 'bf16'}"),
        (cfg_batch != "1", "--cfg_batch 1"),
        (decode_chunk_size > 2, f"--decode_chunk_size {max(2, decode_chunk_size // 2)}"),
        (on_gpu and offload == "none", "--offload model"),
        (quantize == "none" and offload != "sequential", "--quantize int8"),
        (on_gpu and vae_device != "cpu", "--vae_device cpu"),
        (tile_size > 8, f"--tile_size {max(8, tile_size // 2)}"),
        (on_gpu and offload != "sequential" and quantize == "none", "--offload sequential"),
        (True, "a smaller --height and --width"),
    ]
    return [lever for helps, lever in levers if helps]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the host ran out of memory."""
    says_so = any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))
    memory_errors = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, memory_errors) or (isinstance(error, RuntimeError) and says_so)
