"""The whole job, from weights on the disk to an MP4: ours beside the method's plain form, in turn.

    python -m benchmarks.job

Weights are random. `fused` is what a user would have instead: PoseNet in each step, two calls of batch 1 with all
tokens, and torch's fused attention. Each side has a process of its own. A ratio is that of a repetition's two times,
given as median (smallest to largest).
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from diffusers import EulerDiscreteScheduler
from einops import rearrange
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.media.writing import AnimationWriter
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from animation.pipeline import AnimationPipeline
from animation.runtime import keep_freed_memory
from animation.sampling import WindowedDenoiser
from benchmarks.decode import WIDTHS, build_vae
from benchmarks.denoise import CONFIGS
from benchmarks.naive import naive_unet
from benchmarks.timing import in_a_process, spread
from recipes.animation import SCHEDULER

TILE, OVERLAP = 8, 2
VAE_SHARE = {"small": 2, "released": 1}  # of the released decoder's widths
GOAL = 0.9  # the whole job's ratio over that of denoising


def write_networks(folder: Path, config: str) -> None:
    """Random networks, as diffusers keeps a pipeline."""
    torch.manual_seed(0)
    widths = CONFIGS[config]["block_out_channels"]
    AnimationPipeline(
        build_vae(tuple(width // VAE_SHARE[config] for width in WIDTHS)),
        CLIPVisionModelWithProjection(CLIPVisionConfig(num_hidden_layers=4, patch_size=32, projection_dim=1024)),
        PoseGuidedUNet(**CONFIGS[config], cross_attention_dim=1024),
        EulerDiscreteScheduler(**SCHEDULER),
        CLIPImageProcessorPil(),
        PoseNet(out_channels=widths[0]),
        FaceEncoder(),
    ).save_pretrained(folder)


class PlainDenoiser(WindowedDenoiser):
    """Calls the UNet for each branch with all tokens, and PoseNet for each window."""

    def __init__(self, pose_net: PoseNet, *args, **options):
        super().__init__(*args, **options)
        self.pose_net = pose_net

    def _run_unet(self, sample, timestep, poses, index):
        tokens, time_ids = self.conditions.tokens, self.conditions.added_time_ids
        if poses is None:
            return self.unet(sample, timestep, torch.zeros_like(tokens), time_ids).sample
        return self.unet(sample, timestep, tokens, time_ids, self.pose_net(poses[0])[None]).sample


class PlainPipeline(AnimationPipeline):
    """Our pipeline, but for what is called at each step."""

    def _encode_poses(self, poses: Sequence[Image.Image], height: int, width: int) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([np.asarray(pose.resize((width, height))) for pose in poses]))
        return rearrange(pixels, "n h w rgb -> n rgb h w").float() / 127.5 - 1

    def denoise(self, conditions, **options):
        self.register_modules(unet=naive_unet(self.unet, fused=True))
        with mock.patch("animation.pipeline.WindowedDenoiser", functools.partial(PlainDenoiser, self.pose_net)):
            return super().denoise(conditions, **options | {"cfg_batch": 1})


def build_job(folder: Path, args: argparse.Namespace, ours: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """One side; a call returns the seconds of all and those of denoising, (2,)."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    if ours:
        keep_freed_memory()
    size = args.width, args.height
    poses = [Image.effect_noise(size, 50 + i).convert("RGB") for i in range(args.frames)]

    def job() -> torch.Tensor:
        began = time.perf_counter()
        pipeline = (AnimationPipeline if ours else PlainPipeline).from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.unet.eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        conditions = pipeline.encode(poses[0], poses, torch.ones(512), args.height, args.width, generator=generator)
        started = time.perf_counter()
        latents = pipeline.denoise(
            conditions, num_inference_steps=args.steps, tile_size=TILE, overlap=OVERLAP, generator=generator
        )
        denoising = time.perf_counter() - started
        with AnimationWriter(folder / f"out-{ours}", args.frames, 10) as writer:
            for frames in pipeline.decode(latents):
                writer.write(frames)
        return torch.tensor([time.perf_counter() - began, denoising])

    return {"ours" if ours else "fused": job}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--frames", type=int, default=14)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--height", type=int, default=256, help="pixels")
    parser.add_argument("--width", type=int, default=256, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        write_networks(Path(name), args.config)
        jobs = in_a_process(build_job, Path(name), args, False) | in_a_process(build_job, Path(name), args, True)
        rounds = [{side: call() for side, call in jobs.items()} for _ in range(1 + args.repeats)][1:]  # one warms up
    whole, denoising = ([[float(each[side][i]) for each in rounds] for side in ("fused", "ours")] for i in range(2))
    print(f"{args.config} widths, {args.frames} frames of {args.width}×{args.height}, {args.steps} steps")
    print(f"{torch.get_num_threads()} threads; seconds, fused and ours: {np.median(whole, axis=1).round(1).tolist()}")
    print(f"denoising: {spread(*denoising)} times as fast")
    print(f"the whole job: {spread(*whole)} times as fast")
    share = np.median(np.divide(*whole)) / np.median(np.divide(*denoising))
    print(f"the whole job's ratio is {share:.2f} of denoising's; the goal is {GOAL}")


if __name__ == "__main__":
    main()
