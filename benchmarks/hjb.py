"""Memory and time of the face optimisation, and the error of decoding the faces alone.

    python -m benchmarks.hjb memory               # peak memory of a refined step against frames and chunk, Linux
    python -m benchmarks.hjb model                # bytes alive at the released size, counted without allocating them
    python -m benchmarks.hjb time                 # recomputing activations, and decoding the faces alone, as ratios
    python -m benchmarks.hjb crop [--vae DIR]     # error of --hjb_crop; with real weights where a folder is given

Weights are random unless --vae names a folder. Memory is measured in a process of its own for each size: its highest
resident size less that before the step, so that nothing of one size is in the next one's figure.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder

from animation.decoding import LATENT_SIZE
from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer, latent_window
from animation.modules.arcface import ArcFace
from animation.modules.unet import PoseGuidedUNet
from animation.planning.counting import META, FusedAttention, MetaCounter
from animation.weights.loading import load_vae

VAE_WIDTHS = {"tiny": (32, 32, 32, 32), "small": (64, 128, 256, 256), "released": (128, 256, 512, 512)}
SMALL_ARCFACE = {"widths": (8, 8, 16, 16, 32), "depths": (1, 2, 2, 1)}
GIB = 2**30


def build_vae(config: str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> torch.nn.Module:
    """SVD's VAE of random weights, frozen."""
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=VAE_WIDTHS[config], down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
        )
    return torch.nn.Module.to(vae, device, dtype).eval().requires_grad_(False)


def centre_boxes(frames: int, height: int, width: int, share: float = 0.2) -> list[FaceBox]:
    """A face in the upper middle of each frame, `share` of its height, wandering from frame to frame."""
    side = round(share * height)
    boxes = []
    for i in range(frames):
        top, left = height // 6 + 3 * (i % 4), (width - side) // 2 + 5 * (i % 4)
        boxes.append(FaceBox(top, min(top + side, height) - 1, left, min(left + side, width) - 1))
    return boxes


def build_optimizer(vae, frames: int, height: int, width: int, arcface=None, **changes) -> FaceOptimizer:
    """A refinement of one iteration towards a random embedding."""
    torch.manual_seed(1)
    arcface = arcface or ArcFace(**SMALL_ARCFACE).eval().requires_grad_(False)
    boxes = centre_boxes(frames, height, width)
    reference = torch.randn(1, arcface.config.embedding_dim)
    return FaceOptimizer(vae, arcface, reference, boxes, **{"num_iterations": 1, "progress": False, **changes})


def random_latents(frames: int, height: int, width: int) -> torch.Tensor:
    """(F, 4, h, w) float32."""
    size = height // LATENT_SIZE, width // LATENT_SIZE
    return torch.randn(frames, 4, *size, generator=torch.Generator().manual_seed(2)) * 0.5


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process, in GiB. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / GIB


def measure_step(config: str, frames: int, chunk: int, height: int, width: int, checkpointing: bool) -> float:
    """GiB that one refined step takes at most, on top of the models and the latents, in this process."""
    hook = build_optimizer(
        build_vae(config), frames, height, width, decode_chunk_size=chunk, checkpointing=checkpointing
    )
    latents = random_latents(frames, height, width)[None]
    before = resident("VmRSS")
    with torch.no_grad():
        hook(latents, 0, 25)
    return resident("VmHWM") - before


def measure_apart(*arguments: object) -> float:
    """`measure_step` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.hjb", "measure", *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return float(result.stdout.split()[-1])


def count_step(
    config: str,
    dtype: torch.dtype,
    chunk: int,
    height: int,
    width: int,
    crop: int | None = None,
    checkpointing: bool = True,
    frames: int | None = None,
) -> int:
    """Bytes of tensors alive at most while a gradient is made, the networks' own left out; none are allocated.

    Args:
        chunk: frames decoded together.
        frames: of the video; None: one chunk.
    """
    frames = frames or chunk
    vae = build_vae(config, dtype, META)
    with META:
        arcface = ArcFace(**({} if config == "released" else SMALL_ARCFACE)).eval().requires_grad_(False)
    variant = {"decode_chunk_size": chunk, "crop_margin": crop, "checkpointing": checkpointing}
    hook = build_optimizer(vae, frames, height, width, arcface, **variant)
    latents = random_latents(frames, height, width).to(META)
    with FusedAttention(), MetaCounter() as counter:
        hook.gradient(latents)
    return counter.peak


def parameter_bytes(model: torch.nn.Module, bytes_each: int) -> int:
    """Of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters()) * bytes_each


def show_memory(args) -> None:
    """Peak memory against frames and chunk size, and the model's count beside it."""
    height, width = args.height or 64, args.width or 64
    print(f"{args.config} widths, {width}×{height}, fp32 on the CPU, 1 iteration: GiB on top of models and latents")
    print(f"{'frames':>8s} {'chunk':>6s} {'recomputing':>12s} {'measured':>9s} {'counted':>9s}")
    rows = [(f, 4, 1) for f in (4, 8, 16, 32)] + [(f, 8, 1) for f in (8, 32)] + [(f, f, 0) for f in (4, 8, 16, 32)]
    for frames, chunk, checkpointing in rows:
        measured = measure_apart(args.config, frames, chunk, height, width, checkpointing)
        counted = count_step(args.config, torch.float32, chunk, height, width, None, bool(checkpointing), frames)
        print(f"{frames:8d} {chunk:6d} {'yes' if checkpointing else 'no':>12s} {measured:9.2f} {counted / GIB:9.2f}")


def show_model(args) -> None:
    """What a card must hold at the released sizes."""
    height, width = args.height or 1024, args.width or 576
    with META:
        unet = PoseGuidedUNet(block_out_channels=(320, 640, 1280, 1280), num_attention_heads=(5, 10, 20, 20))
        vae, arcface = build_vae("released", device=META), ArcFace()
    frames = 450
    latents = frames * 4 * (height // LATENT_SIZE) * (width // LATENT_SIZE) * 4
    fixed = {
        "UNet, fp16": parameter_bytes(unet, 2),
        "image encoder, fp16": 632_076_800 * 2,
        "VAE, fp16": parameter_bytes(vae, 2),
        "ArcFace, fp32": parameter_bytes(arcface, 4),
        f"latents of {frames} frames, fp32: two of the sampler's, five of Adam's": 7 * latents,
    }
    print(f"{width}×{height}, {frames} frames (GiB)")
    for name, size in fixed.items():
        print(f"  {name:72s} {size / GIB:7.2f}")
    rest = sum(fixed.values())
    columns = f"{'a chunk':>8s} {'with all that':>13s} {'with --offload model':>20s}"
    print(f"\n{'format':>8s} {'chunk':>5s} {'crop margin':>11s} {'recomputing':>11s} {columns}")
    half, full = torch.float16, torch.float32
    for dtype, chunk, crop, checkpointing in (
        (half, 4, None, True),
        (half, 2, None, True),
        (half, 4, 8, True),
        (full, 4, None, True),
        (full, 4, 8, True),
        (half, 4, None, False),
        (full, 4, None, False),
    ):
        peak = count_step("released", dtype, chunk, height, width, crop, checkpointing)
        offloaded = rest - fixed["UNet, fp16"] - fixed["image encoder, fp16"]
        print(
            f"{str(dtype)[-7:]:>8s} {chunk:5d} {crop if crop is not None else 'whole':>11} "
            f"{'yes' if checkpointing else 'no':>11s} {peak / GIB:8.1f} {(peak + rest) / GIB:13.1f} "
            f"{(peak + offloaded) / GIB:20.1f}"
        )
    whole = count_step("released", full, 20, height, width, None, False)
    print(f"\nfor comparison, the decoder graph of 20 frames kept whole, fp32: {whole / GIB:.0f} GiB")


def show_time(args) -> None:
    """Seconds of a step's gradient by variants in turn, as ratios to the whole frames without recomputing."""
    height, width, frames = args.height or 128, args.width or 128, 4
    vae, latents = build_vae(args.config), random_latents(frames, height, width)
    variants = {
        "activations kept": {"checkpointing": False},
        "activations recomputed (as it runs)": {},
        "recomputed, faces alone, margin 2": {"crop_margin": 2},
        "recomputed, faces alone, margin 4": {"crop_margin": 4},
    }
    hooks = {name: build_optimizer(vae, frames, height, width, **changes) for name, changes in variants.items()}
    seconds = {name: [] for name in hooks}
    for repetition in range(args.repeats + 1):
        for name, hook in hooks.items():
            start = time.perf_counter()
            hook.gradient(latents)
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    base = seconds["activations kept"]
    print(f"{args.config} widths, {frames} frames of {width}×{height}: time against activations kept")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        print(f"{name:40s} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def show_crop(args) -> None:
    """The gradient's error, and what a step reaches, when the faces alone are decoded."""
    height, width, frames = args.height or 256, args.width or 256, 4
    vae = load_vae(args.vae) if args.vae else build_vae(args.config)
    latents = random_latents(frames, height, width)
    whole = build_optimizer(vae, frames, height, width, num_iterations=3)
    expected = whole.gradient(latents)[1]
    start, reached = whole.similarity(latents), whole.similarity(whole(latents[None], 0, 25)[0])
    print(
        f"{args.vae or args.config + ' widths, random weights'}, {frames} frames of {width}×{height}; whole frames: "
        f"similarity {start:.3f} → {reached:.3f}"
    )
    print(
        f"{'margin':>6s} {'decoded':>8s} {'error of the gradient':>22s} {'its cosine':>11s} {'similarity reached':>19s}"
    )
    for margin in (0, 2, 4, 8, 16):
        hook = build_optimizer(vae, frames, height, width, num_iterations=3, crop_margin=margin)
        rows, columns = latent_window(hook.boxes, margin, *latents.shape[-2:])
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / latents[0, 0].numel()
        found = hook.gradient(latents)[1]
        error = ((found - expected).norm() / expected.norm()).item()
        cosine = F.cosine_similarity(found.flatten(), expected.flatten(), dim=0).item()
        after = whole.similarity(hook(latents[None], 0, 25)[0])
        print(f"{margin:6d} {share:8.0%} {error:22.2f} {cosine:11.3f} {after:19.3f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, show in (("memory", show_memory), ("model", show_model), ("time", show_time), ("crop", show_crop)):
        command = commands.add_parser(name)
        command.set_defaults(show=show)
        command.add_argument("--config", choices=VAE_WIDTHS, default="small")
        command.add_argument("--height", type=int, help="pixels")
        command.add_argument("--width", type=int, help="pixels")
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--vae", help="a VAE folder with real weights")
    step = commands.add_parser("measure")
    step.add_argument("config")
    step.add_argument("sizes", type=int, nargs=5, help="frames, chunk, height, width, recomputing (0 or 1)")
    args = parser.parse_args()
    if args.command == "measure":
        frames, chunk, height, width, checkpointing = args.sizes
        print(measure_step(args.config, frames, chunk, height, width, bool(checkpointing)))
    else:
        args.show(args)


if __name__ == "__main__":
    main()
