"""One video on two processes over gloo beside one process, each process of one thread, and what several GPUs would do.

    python -m benchmarks.parallel

Weights are random. A ratio is that of a repetition's two times, one process over two, given as median (smallest to
largest): of the wall clock, and of the CPU time that the busiest process spent, which other work on the machine
disturbs less. Cores share caches and memory, so that two are less than twice one: `two apart` is what two processes do
that make a video each and share nothing, and the most that sharing can reach. The table of several GPUs is MODELLED, of
counted rounds, arithmetic and bytes and of assumed rates: it is not measured.
"""

import argparse
import functools
import json
import math
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp
from diffusers import AutoencoderKLTemporalDecoder

from animation.decoding import decode_frames
from animation.modules.unet import PoseGuidedUNet
from animation.parallel import Processes, rounds
from animation.planning.counting import META, FusedAttention, MetaCounter
from animation.runtime import keep_freed_memory
from animation.sampling import Conditions, WindowedDenoiser
from animation.windows import window_indices
from benchmarks.denoise import CONFIGS
from benchmarks.timing import spread

TILE, OVERLAP, CHUNK = 4, 1, 2
WARM_UPS = 3  # of each call; a share of the work touches its memory later than the whole does
GOAL = 1.8
# What the table of several GPUs is modelled on: the released UNet, 38 windows of 16 frames that share 4, in fp16.
MODEL_FRAMES, MODEL_TILE, MODEL_OVERLAP, MODEL_SIZE = 460, 16, 4, (1024 // 8, 576 // 8)
GPU_RATE = 150e12  # floating-point operations a second
LINKS = {"NVLink, 300 GB/s": 300e9, "PCIe 4, 20 GB/s": 20e9, "two nodes, 25 Gb/s": 25e9 / 8}  # bytes a second, one way


def build(processes: Processes, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """A denoising step and decoding of one video, this process's share of them."""
    torch.manual_seed(0)
    unet = PoseGuidedUNet(**CONFIGS["small"], cross_attention_dim=1024)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(64, 64, 128, 128), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
    )
    for network in (unet, vae):
        network.eval().requires_grad_(False)
    size = args.size // 8
    poses = torch.randn(args.frames, CONFIGS["small"]["block_out_channels"][0], size, size)
    time_ids = torch.tensor([[6, 127, 0.02]])
    conditions = Conditions(torch.randn(1, 5, 1024), torch.randn(1, 4, size, size), poses, time_ids)
    windows = window_indices(args.frames, TILE, OVERLAP)
    denoiser = WindowedDenoiser(unet, conditions, windows, torch.device("cpu"), cfg_batch=1, processes=processes)
    latents = torch.randn(1, args.frames, 4, size, size)

    def denoise() -> None:
        prediction = denoiser.accumulate(latents, torch.tensor(1.6), True, lambda: None) / denoiser.weight_sum
        processes.sum(prediction[1:] * 3 - prediction[:1] * 2)

    def decode() -> None:
        def frames(start: int):
            return (decode_frames(vae, latents[0, start : start + CHUNK]) * 127).to(torch.int8).numpy()

        for _ in processes.in_order(range(0, args.frames, CHUNK), frames):
            pass

    return {"denoising": denoise, "decoding": decode}


def work(rank: int, count: int, port: int, folder: str, args: argparse.Namespace, apart: bool) -> None:
    """One process: after a warm-up its wall-clock and CPU seconds, and the bytes that it handed over."""
    torch.set_num_threads(1)
    keep_freed_memory()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(count)}
    processes = Processes(rank, count, rank)
    processes.connect(torch.device("cpu"))
    found: dict[str, list] = {}
    with torch.inference_mode():
        calls = build(Processes() if apart else processes, args)
        for name, call in calls.items():
            for _ in range(WARM_UPS):
                call()
            before = processes.traffic
            processes.first(lambda: None)
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            found[name] = [time.perf_counter() - wall, time.process_time() - cpu, processes.traffic - before]
    Path(folder, f"{count}-{rank}.json").write_text(json.dumps(found))


def run(count: int, args: argparse.Namespace, apart: bool = False) -> dict[str, tuple[float, float, int]]:
    """By name the longest wall clock and CPU time of a process, and the most bytes that one handed over.

    Args:
        apart: each process does the whole work.
    """
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(work, (count, port, folder, args, apart), nprocs=count)
        parts = [json.loads(Path(folder, f"{count}-{rank}.json").read_text()) for rank in range(count)]
    return {name: tuple(map(max, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}


def window_flops() -> float:
    """Floating-point operations of both branches of a window of the released UNet, counted on torch's meta device."""
    with META:
        unet = PoseGuidedUNet(**CONFIGS["released"], cross_attention_dim=1024).eval()
    torch.nn.Module.to(unet, META)  # some constants are made elsewhere
    empty = functools.partial(torch.empty, device=META)
    poses = empty(MODEL_TILE, CONFIGS["released"]["block_out_channels"][0], *MODEL_SIZE)
    conditions = Conditions(empty(1, 5, 1024), empty(1, 4, *MODEL_SIZE), poses, empty(1, 3))
    with torch.no_grad(), FusedAttention(), MetaCounter() as counter:
        denoiser = WindowedDenoiser(unet, conditions, [range(MODEL_TILE)], META, cfg_batch=1)
        denoiser.accumulate(empty(1, MODEL_TILE, 4, *MODEL_SIZE), empty(()), True, lambda: None)
        return counter.flops


def modelled() -> None:
    """Print how many times as fast several GPUs would denoise, by counting rounds and the bytes of a ring of sums."""
    windows = len(window_indices(MODEL_FRAMES, MODEL_TILE, MODEL_OVERLAP))
    latents, seconds = MODEL_FRAMES * 4 * math.prod(MODEL_SIZE) * 4, window_flops() / GPU_RATE
    print(f"\nMODELLED, not measured: {MODEL_FRAMES} frames of 576×1024, {windows} windows of {seconds:.2f} s at")
    print(f"{GPU_RATE / 1e12:g} TFLOP/s; a sum of {latents / 1e6:.0f} MB a step, of which each sends 2·(n − 1)/n")
    print(f"{'GPUs':>5s} {'rounds':>7s} {'at work':>8s}" + "".join(f"{name:>22s}" for name in LINKS))
    for count in (2, 4, 8):
        calls, busy = rounds(2 * windows, count)
        cells = []
        for rate in LINKS.values():
            times = windows * seconds / (calls * seconds / 2 + latents * 2 * (count - 1) / count / rate)
            cells.append(f"{f'{times:.2f} ({times / count:.0%})':>22s}")
        print(f"{count:5d} {calls / 2:7g} {busy:8.0%}" + "".join(cells))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, default=128, help="pixels, of height and width")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    windows, chunks = len(window_indices(args.frames, TILE, OVERLAP)), -(-args.frames // CHUNK)
    print(f"{args.frames} frames of {args.size}×{args.size}: {windows} windows of {TILE}, {chunks} chunks of {CHUNK}")
    for name, items in (("denoising", 2 * windows), ("decoding", chunks)):
        print(f"{name}: at most {items / rounds(items, 2)[0]:.2f} times as fast by its rounds on two processes")
    found: dict[str, list[dict]] = {"one": [], "two": [], "apart": []}
    for _ in range(args.repeats):  # in turn
        for side, runs in found.items():
            runs.append(run(1 if side == "one" else 2, args, apart=side == "apart"))
    print(f"\n{'one process over two':24s} {'wall clock':24s} {'CPU of the busiest':24s} {'two apart':24s} goal")
    for name in found["one"][0]:
        wall, cpu = ([[each[name][i] for each in found[side]] for side in ("one", "two")] for i in range(2))
        apart = [2 * each[name][0] for each in found["one"]], [each[name][0] for each in found["apart"]]
        print(f"{name:24s} {spread(*wall):24s} {spread(*cpu):24s} {spread(*apart):24s} {GOAL}")
    for name in found["two"][0]:
        handed = [each[name][2] for each in found["two"]]
        per = " a step" if name == "denoising" else ""
        print(f"{name}: {statistics.median(handed):.0f} bytes handed over{per} by each of two processes, at most")
    modelled()


if __name__ == "__main__":
    main()
