"""The UNet, the PoseNet and the FaceEncoder: a puppet's photo and skeletons become its video.

    python -m recipes.animation

Makes clips with make_puppets.py and trains on them with train.py, with the VAE, the image encoder and the face networks
that the other recipes made: from random weights on short cuts of many characters, then on whole windows, then on both
halves of each. The same command goes on from `--work` after an interrupt. To train the shipped weights further, on two
cores:

    python -m recipes.animation --finetune --stages short polish --processes 2
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from animation import cli
from animation.errors import InputError
from animation.files import read_json, write_text
from animation.modules.unet import PoseGuidedUNet
from animation.training.settings import checkpoint_folders
from recipes.loop import fast_format, run_command

SIDE = 128  # pixels: sharp and small rather than large and blurred
CLIPS, CLIP_FRAMES = 6400, 16
STAGES = {  # frames of a sample, steps, share of the learning rate, warm-up
    "short": (4, 2000, 1.0, 200),
    "whole": (CLIP_FRAMES - 1, 360, 0.5, 200),  # the photo is the one that is left
    "polish": (CLIP_FRAMES // 2, 600, 0.4, 40),
}
UNET = {  # on latents of 16 × 16
    "in_channels": 32,
    "out_channels": 16,
    "sample_size": 16,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "num_attention_heads": (2, 4),
    "layers_per_block": (2, 1),
    "cross_attention_dim": 128,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "num_frames": CLIP_FRAMES,
}
SCHEDULER = {  # Stable Video Diffusion's
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
# On latents of 16 × 16 the conditions alone tell what to draw down to noise levels of about 8. Below, a sampler draws
# one of all that may be, which is further from the truth than their mean.
LAST_SIGMA = 15.0  # where the sampler ends, and from where it goes to 0 in one step
# Half of the noise levels that are trained are above 22, three quarters above 11.
NOISE_DIMS = (2, 1)
# A face and hands are a few of the 256 latents, and the most that anybody looks at.
FACE_LOSS_WEIGHT = 15
TEMPORAL_LOSS_WEIGHT = 20
CONDITIONING_DROPOUT, FINETUNING_DROPOUT = 0.05, 0.01  # the shipped weights have learned to do without a condition
PARTS = {  # flags that training starts them with
    "unet": "unet_model_finetune_path",
    "pose_net": "posenet_model_finetune_path",
    "face_encoder": "face_encoder_finetune_path",
}


def write_configs(svd: Path) -> None:
    """Write what belongs into an SVD folder beside the VAE and the image encoder."""
    PoseGuidedUNet(**UNET).save_config(svd / "unet")
    EulerDiscreteScheduler(**SCHEDULER | {"sigma_min": LAST_SIGMA}).save_pretrained(svd / "scheduler")
    index = {
        "_class_name": "StableVideoDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderDC"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    write_text(svd / "model_index.json", json.dumps(index, indent=2) + "\n")


def training_command(args: argparse.Namespace, stage: str, start_from: Path | None) -> list[str]:
    """The command line of train.py for a stage, from a folder of weights or from nothing."""
    frames, steps, rate, warm_up = STAGES[stage]
    start = [sys.executable]
    if args.processes > 1:
        start += ["-m", "animation.launch", "--multi_gpu", "--num_processes", str(args.processes)]
    flags = {
        "pretrained_model_name_or_path": args.output / "checkpoints/tiny/SVD",
        "face_models": args.output / "models/tiny/antelopev2",
        "data_path": args.work / "data" / "video_rec_path.txt",
        "dataset_width": SIDE,
        "dataset_height": SIDE,
        "output_dir": args.work / stage,
        "trainable": "all",
        "cache_dir": args.work / "cache",
        "sample_n_frames": frames,
        "sample_stride": 1,
        "per_gpu_batch_size": max(1, args.frames_per_step // frames // args.processes),
        "max_train_steps": args.steps or steps,
        "optimizer": "muon",
        "learning_rate": args.learning_rate * rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": warm_up,
        "conditioning_dropout_prob": FINETUNING_DROPOUT if args.finetune else CONDITIONING_DROPOUT,
        "face_loss_weight": FACE_LOSS_WEIGHT,
        "temporal_loss_weight": TEMPORAL_LOSS_WEIGHT,
        "noise_d_low": NOISE_DIMS[0],
        "noise_d_high": NOISE_DIMS[1],
        "num_workers": 1,
        "checkpointing_steps": args.checkpointing_steps,
        "checkpoints_total_limit": 2,
        "resume_from_checkpoint": "latest",
        "validation_steps": 10**9,
        "report_to": "none",
        "mixed_precision": args.mixed_precision,
        "cache_latents": True,
        "use_ema": True,
        "cpu": not torch.cuda.is_available(),
        "max_grad_norm": 1,
        "seed": 0,
    }
    if start_from is not None:
        flags |= {"finetune_mode": True, **{flag: start_from / f"{part}.safetensors" for part, flag in PARTS.items()}}
    return [*start, "train.py", *(f"--{name}={value}" for name, value in flags.items())]


def last_checkpoint(work: Path, stages: Sequence[str]) -> Path:
    """The newest checkpoint of the latest of some stages that has one. Raises InputError where none has."""
    for stage in reversed(stages):
        if found := checkpoint_folders(work / stage):
            return found[-1]
    raise InputError(f"{work}: holds no checkpoint; train first")


def export(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint's three parts in half precision, and what their tensors do not tell."""
    folder = output / "checkpoints/tiny/Animation"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        tensors = load_file(checkpoint / f"{part}.safetensors")
        save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / f"{part}.safetensors")
    order = read_json(checkpoint / "checkpoint.json")["face_channel_order"]
    write_text(folder / "checkpoint.json", json.dumps({"face_channel_order": order}) + "\n")
    print(f"{checkpoint} is now in {folder}")


def write_curve(log: Path, path: Path, every: int = 50) -> None:
    """Write the mean loss of each `every` steps of a training log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    with path.open("w", encoding="utf-8") as file:
        for last in range(every, max(losses, default=0) + 1, every):
            window = [losses[step] for step in range(last - every + 1, last + 1) if step in losses] or [0]
            file.write(json.dumps({"step": last, "loss": round(fmean(window), 5)}) + "\n")


def main() -> None:
    """Make the data, train, export."""
    cli.start_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(), help="the folder of checkpoints/ and models/")
    parser.add_argument("--state", type=Path, default=Path("recipes/state"), help="where the curve is kept")
    parser.add_argument("--work", type=Path, default=Path("output/puppet_training"), help="data and training state")
    parser.add_argument("--clips", type=int, default=CLIPS, help="to train on")
    parser.add_argument("--first_clip", type=int, default=0, help="whose characters no earlier training has seen")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="left out, all, in their order"
    )
    parser.add_argument("--steps", type=int, help="of each stage; left out, 2000, 360 and 600")
    parser.add_argument("--frames_per_step", type=int, default=32, help="of all samples and processes, about")
    parser.add_argument("--learning_rate", type=float, default=8e-4, help="the highest; a cosine leads to 0")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default=fast_format())
    parser.add_argument("--processes", type=int, default=1, help="CPU processes, 1 to 4, that share each step")
    parser.add_argument("--checkpointing_steps", type=int, default=250)
    parser.add_argument("--finetune", action="store_true", help="start the first stage from the shipped weights")
    parser.add_argument("--export_only", action="store_true", help="write the last checkpoint's weights, and stop")
    args = parser.parse_args()
    if not args.export_only:
        write_configs(args.output / "checkpoints/tiny/SVD")
        data = args.work / "data"
        clips = ["training", data, f"--rec={args.clips}", f"--rec_size={SIDE}x{SIDE}", f"--frames={CLIP_FRAMES}"]
        clips += [f"--start={args.first_clip}", f"--workers={args.processes}"]
        clips += ["--roams", "--mask_hands", "--hidden=2"]  # hidden: so that face tokens are needed
        run_command([sys.executable, "make_puppets.py", *map(str, clips)])
        start_from = args.output / "checkpoints/tiny/Animation" if args.finetune else None
        for stage in args.stages:
            run_command(training_command(args, stage, start_from))
            start_from = last_checkpoint(args.work, [stage])
    export(last_checkpoint(args.work, args.stages), args.output)
    args.state.mkdir(parents=True, exist_ok=True)
    for stage in args.stages:
        log = args.work / stage / "training_log.jsonl"
        if log.is_file():
            write_curve(log, args.state / f"animation_{'finetuned_' if args.finetune else ''}{stage}.jsonl")


if __name__ == "__main__":
    cli.run(main)
