"""Times and memory of steps, decoding and gradients on one GPU, with random weights of the released size, in one run.

    python -m benchmarks.gpu --output gpu.json

Each number format and size: naive, naive with torch's fused attention, ours, and ours in other ways; decoding, also
with TAESD; a gradient of the face optimisation; a training step's forward and backward pass of the UNet. Memory is what
a call takes beside what was there before, and for ours also as the planner's model says. Prints tables and writes all
figures with the card's name. Other sizes of networks and pictures serve to try it on a CPU.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer
from animation.files import write_json
from animation.modules.arcface import ArcFace
from animation.modules.unet import PoseGuidedUNet
from animation.planning.counting import META, FusedAttention, MetaCounter, cuda_workspace
from animation.runtime import DTYPES
from benchmarks.decode import WIDTHS, build_decoders, build_vae
from benchmarks.denoise import CONFIGS, build_steps
from benchmarks.timing import seconds_in_turn, spread

SIZES = ["512x512x16", "576x1024x16", "512x512x48"]
SMALL_WIDTHS = 32, 32, 64, 64  # of the decoder, where the UNet is not of the released size
DECODED = 4  # frames at a time


def build_gradients(args: argparse.Namespace, name: str) -> dict[str, Callable[[], object]]:
    """A gradient of the face optimisation on a chunk of frames, and a UNet's forward and backward pass on all."""
    device, dtype, released = args.device, DTYPES[name], args.config == "released"
    vae = build_vae(WIDTHS if released else SMALL_WIDTHS).eval().requires_grad_(False)
    torch.nn.Module.to(vae, device, dtype)
    arcface = (ArcFace() if released else ArcFace(widths=(8, 8, 16, 16, 32), depths=(1, 2, 2, 1))).to(device)
    third, eighth = args.width // 3, args.height // 8
    boxes = [FaceBox(y_min=eighth, y_max=3 * eighth, x_min=third, x_max=2 * third)] * DECODED
    reference = torch.ones(1, arcface.config.embedding_dim)
    hook = FaceOptimizer(vae, arcface.eval().requires_grad_(False), reference, boxes, progress=False)
    size = args.height // 8, args.width // 8
    latents = torch.zeros(DECODED, 4, *size, device=device)
    unet = torch.nn.Module.to(PoseGuidedUNet(**CONFIGS[args.config], cross_attention_dim=1024), device, dtype).train()
    unet.enable_gradient_checkpointing()
    sample = torch.zeros(1, args.frames, 8, *size, device=device, dtype=dtype)
    tokens = torch.ones(1, 5, 1024, device=device, dtype=dtype)
    time_ids = torch.tensor([[6, 127, 0.02]], device=device, dtype=dtype)

    def train() -> torch.Tensor:
        with torch.enable_grad():
            loss = unet(sample, torch.tensor(1.6, device=device), tokens, time_ids)[0].float().square().mean()
            loss.backward()
        unet.zero_grad()
        return loss

    return {
        f"gradient of faces {name}": lambda: hook.gradient(latents)[1],
        f"training pass {name}": train,
    }


def peak_gib(call: Callable[[], object], device: torch.device) -> float | None:
    """The most memory of a call beside what was there; None where it is not CUDA's."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return round((torch.cuda.max_memory_allocated(device) - before) / 2**30, 2)


def modelled_gib(args: argparse.Namespace, name: str) -> float:
    """The same of our step as the planner's model of memory has it."""
    on_meta = argparse.Namespace(**vars(args) | {"device": META.type})
    with FusedAttention(), MetaCounter(cuda_workspace if args.device != "cpu" else None) as counter:
        step = build_steps(on_meta, name, ours=True)[f"ours {name}"]
        step()
        before = counter.peak = counter.now
        step()
    return round((counter.peak - before) / 2**30, 4)


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--config", choices=CONFIGS, default="released")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp16", "bf16"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxHxFRAMES")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out, which takes minutes")
    args = parser.parse_args()
    device = torch.device(args.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else args.device
    found: dict = {"card": card, "torch": torch.__version__, "config": args.config, "runs": []}
    decoder = WIDTHS if args.config == "released" else SMALL_WIDTHS
    for name in args.dtypes:
        for size in args.sizes:
            args.width, args.height, args.frames = map(int, size.split("x"))
            calls = build_steps(args, name, ours=False) | build_steps(args, name, ours=True, others=True)
            calls |= build_decoders(args.device, name, DECODED, args.height, args.width, decoder)
            calls |= build_gradients(args, name)
            if args.no_compile:
                calls = {call: step for call, step in calls.items() if "compiled" not in call}
            seconds = seconds_in_turn(calls, args.repeats)
            peaks = {call: peak_gib(step, device) for call, step in calls.items()}
            model = modelled_gib(args, name)
            found["runs"].append({"size": size, "seconds": seconds, "peak_gib": peaks, "modelled_gib": model})
            print(f"\n{card}, {size}\n\n| call | seconds | times as fast as fused | peak GiB |\n|---|---|---|---|")
            for call, times in seconds.items():
                faster = spread(seconds[f"fused {name}"], times) if call.startswith(("naive", "ours")) else ""
                print(f"| {call} | {statistics.median(times):.3g} | {faster} | {peaks[call] or ''} |")
            print(f"\nours by the model of memory: {model} GiB")
            write_json(args.output, found)
            del calls


if __name__ == "__main__":
    main()
