"""Time of a guided step: ours beside a naive one, plain or with torch's fused attention, in turn.

    python -m benchmarks.denoise                                    # small widths on the CPU
    python -m benchmarks.denoise --config released --frames 4 --steps "fused fp32" "ours fp32" "ours bf16"
    python -m benchmarks.denoise --config released --device cuda --dtypes fp16 bf16 --frames 16 --height 512 --width 512

Weights are random. Each side and number format has a process and memory of its own, in which nothing else runs at the
same time. A ratio is that of a repetition's two times, given as median (smallest to largest).
"""

import argparse
import copy
import itertools
import statistics
from collections.abc import Callable

import numpy as np
import torch

from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.runtime import DTYPES, compile_blocks, keep_freed_memory
from animation.sampling import Conditions, WindowedDenoiser
from animation.windows import window_indices
from benchmarks.naive import naive_unet, predict_video
from benchmarks.timing import in_a_process, seconds_in_turn, spread

CONFIGS = {
    "small": {"block_out_channels": (128, 256, 512, 512), "num_attention_heads": (2, 4, 8, 8)},
    "released": {"block_out_channels": (320, 640, 1280, 1280), "num_attention_heads": (5, 10, 20, 20)},
}
GOALS = {
    ("small", "fused fp32", "ours fp32"): 1.25,
    ("released", "fused fp32", "ours fp32"): 1.25,
    ("released", "fused fp32", "ours bf16"): 3.3,
    ("small", "fused fp32", "ours fp32, compiled"): 1.4,
    ("released", "fused fp32", "ours fp32, compiled"): 1.4,
}


def build_steps(
    args: argparse.Namespace, name: str, ours: bool, others: bool = False
) -> dict[str, Callable[[], torch.Tensor]]:
    """One guided step in a number format, ours or naive ones, on the same weights and inputs; `others`: ways of ours.

    Each returns the unconditional and the conditional prediction, (2, F, 4, h, w).
    """
    dtype, device = DTYPES[name], torch.device(args.device)
    height, width = args.height // 8, args.width // 8
    torch.manual_seed(0)
    with device:
        unet = PoseGuidedUNet(**CONFIGS[args.config], cross_attention_dim=1024)
        pose_net = PoseNet(out_channels=unet.config.block_out_channels[0])
        torch.nn.init.normal_(pose_net.final_proj.weight, std=0.1)
    unet, pose_net = (torch.nn.Module.to(net, device, dtype).eval().requires_grad_(False) for net in (unet, pose_net))
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    latents, poses = random(1, args.frames, 4, height, width), random(args.frames, 3, args.height, args.width)
    poses = poses.clamp(-1, 1)
    tokens, image_latents = random(1, 5, 1024), random(1, 4, height, width)
    timestep = torch.tensor(1.6, device=device)
    time_ids = torch.tensor([[6, 127, 0.02]], device=device, dtype=dtype)
    conditions = Conditions(tokens, image_latents, pose_net(poses), time_ids)
    windows = window_indices(args.frames, 16, 4)

    def run_naive(unet: PoseGuidedUNet) -> torch.Tensor:
        inputs = latents, image_latents, timestep, tokens, time_ids, poses
        return torch.stack(predict_video(unet, pose_net, *inputs, windows))

    def run_ours(cfg_batch: int = 1, guided: bool = True, unet: PoseGuidedUNet = unet) -> torch.Tensor:
        denoiser = WindowedDenoiser(unet, conditions, windows, device, cfg_batch=cfg_batch)
        return denoiser.accumulate(latents.float(), timestep, guided, lambda: None) / denoiser.weight_sum

    def run_channels_last() -> torch.Tensor:
        unet.channels_last = True
        try:
            return run_ours()
        finally:
            unet.channels_last = None

    if not ours:
        naive, fused = naive_unet(unet), naive_unet(unet, fused=True)
        return {f"naive {name}": lambda: run_naive(naive), f"fused {name}": lambda: run_naive(fused)}
    if device.type == "cpu":
        keep_freed_memory()
    steps = {
        f"ours {name}": run_ours,
        f"ours {name}, both branches in one batch": lambda: run_ours(2),
    }
    if not others:
        return steps
    caching = WindowedDenoiser(unet, conditions, windows, device, cfg_batch=1, cache=2)
    caching.accumulate(latents.float(), timestep, True, lambda: None)
    caching.begin_step(1, whole=False)
    compiled = copy.deepcopy(unet, {id(parameter): parameter for parameter in unet.parameters()})
    compile_blocks(compiled)
    return steps | {
        f"ours {name}, channels-last": run_channels_last,
        f"ours {name}, one branch": lambda: run_ours(guided=False),
        f"ours {name}, deep layers cached": lambda: caching.accumulate(latents.float(), timestep, True, lambda: None),
        f"ours {name}, compiled": lambda: run_ours(unet=compiled),
    }


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that say what a step is."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=256, help="pixels")
    parser.add_argument("--width", type=int, default=256, help="pixels")
    return parser


def main() -> None:
    """Measure and print tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="such as 'fused fp32'; left out, all of --dtypes")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    steps: dict[str, Callable[[], np.ndarray]] = {}
    for dtype, ours in itertools.product(args.dtypes, (False, True)):
        side = [name for name in args.steps or [] if dtype in name and name.startswith("ours") is ours]
        if side or not args.steps:
            found = in_a_process(build_steps, args, dtype, ours)
            steps |= {name: found[name] for name in side or found}
    print(
        f"{args.config} widths, {args.frames} frames of {args.width}×{args.height}; {args.device}, "
        f"{torch.get_num_threads()} threads"
    )
    seconds = seconds_in_turn(steps, args.repeats)
    expected = next(iter(steps.values()))()
    print(f"\n{'one step':44s} {'seconds':>8s} {'relative distance from the first':>33s}")
    for name, step in steps.items():
        error = np.linalg.norm(step() - expected) / np.linalg.norm(expected)
        print(f"{name:44s} {statistics.median(seconds[name]):8.3g} {error:33.1e}")
    print(f"\n{'ratio':56s} {'times as fast':24s} goal")
    for slow, fast in itertools.product(steps, steps):
        if not slow.startswith("ours") and fast.startswith("ours"):
            goal = GOALS.get((args.config, slow, fast), "")
            print(f"{f'{slow} / {fast}':56s} {spread(seconds[slow], seconds[fast]):24s} {goal}")


if __name__ == "__main__":
    main()
