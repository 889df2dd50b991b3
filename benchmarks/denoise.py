"""Time and memory of a guided step and of the other stages, naive beside ours, in turn in one process.

    python -m benchmarks.denoise                                    # small widths on the CPU
    python -m benchmarks.denoise --config released --device cuda --dtypes fp16 bf16 --frames 16 --height 512 --width 512

Weights are random. Each repetition runs every variant once, one after the other, so that a drift of the machine's speed
touches all alike; a ratio is that of a repetition's two times, given as median (smallest to largest).
"""

import argparse
import contextlib
import ctypes
import itertools
import statistics
import threading
import time
from collections.abc import Callable

import psutil
import torch
from diffusers import AutoencoderKLTemporalDecoder
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.runtime import DTYPES
from animation.sampling import Conditions, WindowedDenoiser
from benchmarks.naive import naive_unet, predict_window

CONFIGS = {
    "small": {
        "unet": {"block_out_channels": (128, 256, 512, 512), "num_attention_heads": (2, 4, 8, 8)},
        "vae": (64, 128, 256, 256),
        "clip": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    },
    "released": {
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "num_attention_heads": (5, 10, 20, 20)},
        "vae": (128, 256, 512, 512),
        "clip": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
    },
}
MOST_WARM_UPS, STEADY = 5, 0.1  # repetitions before measuring, until no time changes by more than this share
GOAL_SIZE = ("small", 8, 256, 256)  # config, frames, height and width that the goals are for
GOALS = {("naive fp32", "ours fp32"): 1.15, ("naive fp32", "ours bf16"): 1.75, ("naive bf16", "ours bf16"): 2.5}


def build(config: str, device: torch.device, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Networks of a config with random weights, frozen as inference has them."""
    sizes = CONFIGS[config]
    torch.manual_seed(0)
    with torch.device(device):
        models = {
            "unet": PoseGuidedUNet(**sizes["unet"], cross_attention_dim=1024),
            "pose_net": PoseNet(out_channels=sizes["unet"]["block_out_channels"][0]),
            "face_encoder": FaceEncoder(),
            "vae": AutoencoderKLTemporalDecoder(
                block_out_channels=sizes["vae"], down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
            ),
            "clip": CLIPVisionModelWithProjection(
                CLIPVisionConfig(patch_size=14, projection_dim=1024, **sizes["clip"])
            ),
        }
        torch.nn.init.normal_(models["pose_net"].final_proj.weight, std=0.1)
    return {name: torch.nn.Module.to(model, dtype).eval().requires_grad_(False) for name, model in models.items()}


class PeakMemory:
    """The most memory that the block took on top of what was in use before it, in GiB.

    Allocated memory of a CUDA device; on the CPU the process's resident memory, looked at every 5 ms (on Linux after
    giving back what earlier calls left free).
    """

    def __init__(self, device: torch.device):
        self.device = device

    def _in_use(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._in_use())

    def __enter__(self):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._before = self._peak = self._in_use()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
        self.peak = (self._peak - self._before) / 2**30


def measure(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[float, float, torch.Tensor]:
    """Seconds, peak GiB and result of a call, the device's work included."""
    with PeakMemory(device) as memory:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds, memory.peak, result


class Step:
    """One guided step of one window, naive and ours, on the same random inputs."""

    def __init__(self, models: dict, device: torch.device, dtype: torch.dtype, frames: int, height: int, width: int):
        generator = torch.Generator().manual_seed(1)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self.device, self.dtype = device, dtype
        self.latents = random(1, frames, 4, height // 8, width // 8)
        self.poses = random(frames, 3, height, width).clamp(-1, 1)
        self.timestep = torch.tensor(1.6, device=device)
        self.unet, self.pose_net, self.naive = models["unet"], models["pose_net"], naive_unet(models["unet"])
        self.fused = naive_unet(models["unet"], fused=True)
        self.conditions = Conditions(
            tokens=random(1, 5, 1024),
            image_latents=random(1, 4, height // 8, width // 8),
            pose_latents=self.pose_net(self.poses),
            added_time_ids=torch.tensor([[6, 127, 0.02]], device=device, dtype=dtype),
        )
        self.windows = [list(range(frames))]

    def run_naive(self, fused: bool = False) -> torch.Tensor:
        """Two calls of batch 1, PoseNet in each step, plain attention on broadcast tokens."""
        conditions = self.conditions
        image_latents = conditions.image_latents[:, None].expand_as(self.latents)
        return torch.cat(
            predict_window(
                self.fused if fused else self.naive,
                self.pose_net,
                self.latents,
                image_latents,
                self.timestep,
                conditions.tokens,
                conditions.added_time_ids,
                self.poses,
            )
        )

    def run_ours(self, cfg_batch: int) -> torch.Tensor:
        """As `AnimationPipeline.denoise` does it."""
        denoiser = WindowedDenoiser(self.unet, self.conditions, self.windows, self.device, cfg_batch=cfg_batch)
        return denoiser.accumulate(self.latents.float(), self.timestep, True, lambda: None) / denoiser.weight_sum


def spread(values: list[float]) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=256, help="pixels")
    parser.add_argument("--width", type=int, default=256, help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)

    variants, stages = {}, {}
    for name in args.dtypes:
        dtype = DTYPES[name]
        models = build(args.config, device, dtype)
        step = Step(models, device, dtype, args.frames, args.height, args.width)
        variants[f"naive {name}"] = step.run_naive
        variants[f"naive {name}, fused attention"] = lambda step=step: step.run_naive(fused=True)
        variants[f"ours {name}"] = lambda step=step: step.run_ours(1)
        variants[f"ours {name}, both branches in one batch"] = lambda step=step: step.run_ours(2)
        photo = torch.zeros(1, 3, args.height, args.width, device=device, dtype=dtype)
        latents = step.latents[0, :4]
        stages |= {
            f"image encoder {name}": lambda m=models, p=photo: m["clip"](p.new_zeros(1, 3, 224, 224)).image_embeds,
            f"face encoder {name}": lambda m=models, p=photo: m["face_encoder"](
                p.new_zeros(1, 512), p.new_zeros(1, 1, 1024)
            ),
            f"photo through the VAE {name}": lambda m=models, p=photo: m["vae"].encode(p).latent_dist.mode(),
            f"PoseNet, {args.frames} frames, {name}": lambda m=models, s=step: m["pose_net"](s.poses),
            f"decode, {len(latents)} frames, {name}": lambda m=models, z=latents: m["vae"].decode(z, len(z)).sample,
        }

    print(
        f"{args.config} widths, {args.frames} frames of {args.width}×{args.height}, {device}, "
        f"{torch.get_num_threads()} threads, {args.repeats} repetitions"
    )
    seconds, peaks = run_in_turn(variants | stages, device, args.repeats, compare=list(variants))
    print(f"\n{'one call':52s} {'seconds':24s} peak GiB")
    for name in seconds:
        print(f"{name:52s} {spread(seconds[name]):24s} {max(peaks[name]):.2f}")
    print(f"\n{'ratio':52s} {'times as fast':24s} goal")
    for slow, fast in itertools.product(variants, variants):
        if slow.startswith("naive") and fast.startswith("ours"):
            ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
            goal = (
                GOALS.get((slow, fast), "") if (args.config, args.frames, args.height, args.width) == GOAL_SIZE else ""
            )
            print(f"{f'{slow} / {fast}':52s} {spread(ratios):24s} {goal}")


@torch.inference_mode()
def run_in_turn(
    calls: dict[str, Callable], device: torch.device, repeats: int, compare: list[str]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run all calls in turn, until their times are steady and then `repeats` times; print how far results are apart.

    Returns:
        Seconds and peak GiB of each call, by its name.
    """
    seconds, peaks = {name: [] for name in calls}, {name: [] for name in calls}
    results = {name: call().float() for name, call in calls.items() if name in compare}
    first = results[compare[0]]
    for name, result in results.items():
        print(f"{name}: relative distance {((result - first).norm() / first.norm()).item():.1e} from {compare[0]}")
    del first, results
    before = dict.fromkeys(calls, float("inf"))
    for _ in range(MOST_WARM_UPS):
        now = {name: measure(call, device)[0] for name, call in calls.items()}
        if all(abs(now[name] / before[name] - 1) < STEADY for name in calls):
            break
        before = now
    for _ in range(repeats):
        for name, call in calls.items():
            elapsed, peak, result = measure(call, device)
            del result
            seconds[name].append(elapsed)
            peaks[name].append(peak)
    return seconds, peaks


if __name__ == "__main__":
    main()
