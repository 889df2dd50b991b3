"""Times and memory of a step and of decoding on one GPU, with random weights of the released size, in one run.

    python -m benchmarks.gpu --output gpu.json

Each number format and size: naive, naive with torch's fused attention, ours, and ours in other ways. Prints tables and
writes all figures with the card's name. Other sizes of networks and pictures serve to try it on a CPU.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder

from animation.decoding import decode_frames
from animation.files import write_json
from animation.runtime import DTYPES
from benchmarks.denoise import CONFIGS, build_steps
from benchmarks.timing import seconds_in_turn, spread

SIZES = ["512x512x16", "576x1024x16", "512x512x48"]
VAE = {"block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4}
DECODED = 4  # frames at a time


def build_decoder(args: argparse.Namespace, name: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Decoding of a chunk of frames, by the widths of SVD's VAE where the UNet's are the released ones."""
    widths = VAE if args.config == "released" else VAE | {"block_out_channels": (32, 32, 64, 64)}
    vae = torch.nn.Module.to(AutoencoderKLTemporalDecoder(**widths, layers_per_block=2), args.device, DTYPES[name])
    latents = torch.zeros(DECODED, 4, args.height // 8, args.width // 8, device=args.device, dtype=DTYPES[name])
    return {f"decode {DECODED} frames {name}": lambda: decode_frames(vae.eval(), latents)}


def peak_gib(call: Callable[[], object], device: torch.device) -> float | None:
    """The most memory of a call, all weights on the device included; None where it is not CUDA's."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


@torch.inference_mode()
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
    for name in args.dtypes:
        for size in args.sizes:
            args.width, args.height, args.frames = map(int, size.split("x"))
            calls = build_steps(args, name, ours=False) | build_steps(args, name, ours=True, others=True)
            calls |= build_decoder(args, name)
            if args.no_compile:
                calls = {call: step for call, step in calls.items() if "compiled" not in call}
            seconds = seconds_in_turn(calls, args.repeats)
            peaks = {call: peak_gib(step, device) for call, step in calls.items()}
            found["runs"].append({"size": size, "seconds": seconds, "peak_gib": peaks})
            print(f"\n{card}, {size}\n\n| call | seconds | times as fast as fused | peak GiB |\n|---|---|---|---|")
            for call, times in seconds.items():
                faster = "" if call.startswith("decode") else spread(seconds[f"fused {name}"], times)
                print(f"| {call} | {statistics.median(times):.3g} | {faster} | {peaks[call] or ''} |")
            write_json(args.output, found)
            del calls


if __name__ == "__main__":
    main()
