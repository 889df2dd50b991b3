"""Devices, number formats and memory levers."""

import platform
import subprocess
import sys

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from transformers import CLIPImageProcessorPil

from animation import runtime
from animation.errors import InputError
from animation.pipeline import AnimationPipeline
from tests.synthetic import SCHEDULER_CONFIG, tiny_components

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def pipe():
    return AnimationPipeline(
        **tiny_components(),
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessorPil(),
    )


def test_devices(monkeypatch):
    assert runtime.choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.choose_device("auto") == CUDA
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"cuda:2: torch .* sees 2 CUDA devices"):
        runtime.choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "is_available", lambda: False)
    assert runtime.choose_device("auto") == CPU
    for name, reason in (("mps", "not available"), ("tpu", "unknown"), ("meta", "not supported"), ("", "unknown")):
        with pytest.raises(InputError, match=reason):
            runtime.choose_device(name)


def test_dtypes(monkeypatch):
    assert runtime.choose_dtype("auto", CUDA) == torch.float16
    assert runtime.choose_dtype("auto", CPU) == torch.float32
    assert runtime.choose_dtype("bf16", CPU) == torch.bfloat16
    assert runtime.choose_dtype("fp16", CUDA) == torch.float16
    with pytest.raises(InputError, match="fp16 on a CPU: it has no fast half-precision"):
        runtime.choose_dtype("fp16", CPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="this GPU does not compute in it"):
        runtime.choose_dtype("bf16", CUDA)
    with pytest.raises(InputError, match="unknown"):
        runtime.choose_dtype("fp8", CUDA)


@pytest.mark.parametrize(
    ("abilities", "name"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "auto")]
)
def test_the_fast_format_of_a_cpu_is_bf16_where_it_computes_in_it(monkeypatch, abilities, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert runtime.fast_dtype("auto", CPU) == name
    assert runtime.fast_dtype("fp32", CPU) == "fp32"
    assert runtime.fast_dtype("auto", CUDA) == "auto"


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_needs_a_gpu(pipe, offload):
    with pytest.raises(InputError, match=f"--offload {offload}: .* the device is the CPU"):
        runtime.place(pipe, CPU, offload)


def test_vae_on_the_cpu_is_float32(pipe):
    for model in (pipe.unet, pipe.vae):
        model.to(torch.bfloat16)
    runtime.place(pipe, CPU, vae_device="cpu")
    assert (pipe.vae.dtype, pipe.unet.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("vae_device", ["same", "cpu"])
def test_a_vae_on_the_cpu_is_not_offloaded(pipe, monkeypatch, vae_device):
    """diffusers' own offloading, on the only device there is."""
    offload = pipe.enable_model_cpu_offload
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: offload(device=CPU))
    runtime.place(pipe, CUDA, "model", vae_device)
    hooked = {name for name, model in pipe.components.items() if hasattr(model, "_hf_hook")}
    others = {"image_encoder", "face_encoder", "pose_net", "unet"}
    assert hooked == (others | {"vae"} if vae_device == "same" else others)


def test_xformers_is_refused_where_it_cannot_run(pipe, monkeypatch):
    with pytest.raises(InputError, match="xformers: its kernels run on CUDA alone; use --attention sdpa"):
        runtime.use_xformers(pipe, CPU)
    monkeypatch.setattr("diffusers.models.attention_processor.is_xformers_available", lambda: False)
    with pytest.raises(InputError, match="xformers: it is not installed"):
        runtime.use_xformers(pipe, CUDA)


def test_xformers_replaces_self_attention_alone(pipe, monkeypatch):
    changed = []
    monkeypatch.setattr(
        "diffusers.models.attention_processor.Attention.set_use_memory_efficient_attention_xformers",
        lambda self, use: changed.append(self),
    )
    runtime.use_xformers(pipe, CUDA)
    assert changed
    assert not any(layer.is_cross_attention for layer in changed)
    assert 2 * len(changed) == len(pipe.unet.attn_processors)


def test_remedies_name_what_is_not_in_use_yet_cheapest_first():
    remedies = runtime.memory_remedies("cuda", "fp32", "none", "auto", 16, "same", 16)
    assert remedies == [
        "--dtype fp16",
        "--cfg_batch 1",
        "--decode_chunk_size 8",
        "--offload model",
        "--quantize int8",
        "--vae_device cpu",
        "--tile_size 8",
        "--offload sequential",
        "a smaller --height and --width",
    ]
    last = ["a smaller --height and --width"]
    assert runtime.memory_remedies("cuda", "fp16", "sequential", "1", 2, "cpu", 8) == last
    assert runtime.memory_remedies("cpu", "bf16", "none", "1", 1, "same", 4, "int8") == last
    assert runtime.memory_remedies("cpu", "fp32", "none", "1", 1, "same", 4)[0] == "--dtype bf16"


def test_out_of_memory_is_recognised():
    assert runtime.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert runtime.is_out_of_memory(MemoryError())
    assert runtime.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"))
    assert runtime.is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not runtime.is_out_of_memory(RuntimeError("size mismatch"))
    assert not runtime.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_gives_the_same_frames(pipe, case, offload):
    import numpy as np

    from animation.media.images import FrameFolder, load_photo

    def run(pipe):
        return pipe(
            load_photo(case / "reference.png"),
            list(FrameFolder(case / "poses")),
            np.ones(512),
            64,
            64,
            2,
            tile_size=4,
            overlap=1,
            generator=torch.Generator("cuda").manual_seed(0),
            output_type="np",
        ).frames

    runtime.place(pipe, CUDA)
    expected = run(pipe)
    runtime.place(pipe.to("cpu"), CUDA, offload)
    assert np.abs(run(pipe) - expected).max() < 2 / 255


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's allocator")
@pytest.mark.parametrize("keep", [True, False])
def test_kept_memory_is_not_mapped_again(keep):
    """Pages that the kernel must clear while the same large tensor is made again and again."""
    code = f"""
import resource, statistics, torch
from animation.runtime import keep_freed_memory
if {keep}:
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(10):  # until the freed pieces have grown together
    faults()
print(statistics.median(faults() for _ in range(10)))  # one may still be cut from a fresh piece
"""
    faults = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    pages = 2**26 // 4096
    assert faults < pages / 100 if keep else faults > pages / 2, faults
