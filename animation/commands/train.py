"""Train StableAnimator's PoseNet, FaceEncoder and UNet on folders of clips.

    python train.py --data_root_path data --output_dir output/train
    accelerate launch train.py --data_root_path data --output_dir output/train

The same command on a CPU, on many GPUs and on many machines: `accelerate config` says which. Writes checkpoint-N/ with
pose_net.pth, face_encoder.pth and unet.pth, which inference_basic.py reads, validation/ and training_log.jsonl.
"""

import argparse
import logging

from animation import cli
from animation.training.settings import LR_SCHEDULES, RETIRED, TRACKERS, TrainingSettings

logger = logging.getLogger("animation.train")


def boolean(text: str) -> bool:
    """True or False, as people write them on a command line."""
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.strip().lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.strip().lower()]


def build_parser() -> argparse.ArgumentParser:
    """The released script's flags by their names and meanings, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)

    def switch(group, name: str, text: str) -> None:
        """Add a flag that is true alone, and takes =True and =False."""
        group.add_argument(f"--{name}", nargs="?", const=True, type=boolean, metavar="BOOL", help=text)

    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--pretrained_model_name_or_path",
        metavar="DIR",
        help="Stable Video Diffusion's diffusers folder, or a hub name that is already in the cache; where its unet/ "
        "holds only config.json, the UNet starts from random weights",
    )
    weights.add_argument("--revision", help="revision of a hub name; means nothing for a folder")
    switch(weights, "finetune_mode", "start from the three files below instead of from Stable Video Diffusion")
    for flag, name in (("posenet_model", "pose_net"), ("face_encoder", "face_encoder"), ("unet_model", "unet")):
        weights.add_argument(f"--{flag}_finetune_path", metavar="FILE", help=f"{name} weights to finetune")
    weights.add_argument(
        "--trainable",
        choices=("method", "all"),
        help="method: PoseNet, FaceEncoder and the UNet's attention; all: every part, to train from nothing",
    )
    weights.add_argument(
        "--lora_rank",
        type=int,
        metavar="R",
        help="train only low-rank adapters of this rank on the attention layers of a finetuned checkpoint; they are "
        "merged into the saved weights. 0: no adapters",
    )
    weights.add_argument("--lora_alpha", type=float, help="their output is scaled by alpha/rank; left out, by 1")
    weights.add_argument("--face_models", metavar="DIR", help="insightface's antelopev2")
    weights.add_argument(
        "--face_channel_order",
        choices=("rgb", "bgr"),
        help="what the face model is handed, stored with the checkpoint: left out, bgr, which is right for it; when "
        "finetuning what that checkpoint says, else rgb, which the released weights were trained with",
    )

    data = parser.add_argument_group("data: folders with images/, poses/ and faces/, named by text files")
    data.add_argument(
        "--data_root_path", metavar="DIR", help="where listed folders are looked for; alone: its rec/ and vec/ are read"
    )
    data.add_argument("--rec_data_path", metavar="LIST", help="clips trained at 512×512")
    data.add_argument("--vec_data_path", metavar="LIST", help="clips trained at 576×1024 (width × height)")
    data.add_argument("--data_path", metavar="LIST", help="clips trained at --dataset_width × --dataset_height")
    data.add_argument("--dataset_width", type=int, help="pixels, a multiple of 64")
    data.add_argument("--dataset_height", type=int, help="pixels, a multiple of 64")
    data.add_argument(
        "--bucket", action="append", metavar="WxH:LIST", help="clips trained at any other size; as often as you like"
    )
    data.add_argument("--sample_n_frames", type=int, help="frames of a sample")
    data.add_argument("--sample_stride", type=int, help="clip frames from one to the next; less where clips are short")
    data.add_argument("--num_workers", type=int, help="processes that read, for each process that trains")
    data.add_argument("--max_bad_clips", type=float, help="share of unusable clips above which the run stops")
    switch(data, "check_data", "only read all the data and say what it lacks")
    data.add_argument(
        "--cache_dir", metavar="DIR", help="keeps face embeddings and latents; left out, cache/ in the output folder"
    )

    run = parser.add_argument_group("training")
    run.add_argument("--output_dir", required=True, metavar="DIR", help="where the results go; made where missing")
    run.add_argument("--per_gpu_batch_size", type=int, help="samples at once in each process")
    run.add_argument("--gradient_accumulation_steps", type=int, help="such batches for one optimizer step")
    run.add_argument("--num_train_epochs", type=int, help="times through the data, unless --max_train_steps is given")
    run.add_argument("--max_train_steps", type=int, help="optimizer steps in all")
    run.add_argument("--learning_rate", type=float, help="of AdamW")
    switch(run, "scale_lr", "multiply the learning rate by the samples of an optimizer step")
    run.add_argument("--lr_scheduler", choices=LR_SCHEDULES, help="how the learning rate goes")
    run.add_argument("--lr_warmup_steps", type=int, help="steps of growing rate; constant has none")
    for name, text in (
        ("beta1", "first moment's decay"),
        ("beta2", "second moment's decay"),
        ("weight_decay", "decoupled decay"),
        ("epsilon", "added to the denominator"),
    ):
        run.add_argument(f"--adam_{name}", type=float, help=text)
    run.add_argument("--max_grad_norm", type=float, help="gradients are scaled down to this norm; 0: never")
    switch(run, "use_ema", "average the weights over the steps; checkpoints and videos take the average")
    run.add_argument("--conditioning_dropout_prob", type=float, help="of image token and image latents, for guidance")
    run.add_argument(
        "--noise_d_low", type=int, metavar="D", help="of high noise levels: smaller trains them more often"
    )
    run.add_argument("--noise_d_high", type=int, metavar="D", help="the same of low noise levels")
    run.add_argument("--seed", type=int, help="the same seed gives the same training")
    switch(run, "overfit", "repeat the first step's clips, noise and noise levels, to see whether a set-up can learn")

    memory = parser.add_argument_group("speed and memory (the README's table says what each costs)")
    memory.add_argument(
        "--mixed_precision", choices=("no", "fp16", "bf16"), help="left out, what accelerate's config says, else no"
    )
    switch(memory, "gradient_checkpointing", "compute activations again in the backward pass")
    switch(memory, "use_8bit_adam", "optimizer states in 8 bits; needs bitsandbytes")
    switch(memory, "cache_latents", "keep the VAE's posterior of each frame on disk")
    switch(memory, "allow_tf32", "faster float32 products on Ampere GPUs and later, less exact")
    switch(memory, "cpu", "train on the CPU though there is a GPU")

    told = parser.add_argument_group("checkpoints, validation and logs")
    told.add_argument("--checkpointing_steps", type=int, help="steps from one checkpoint to the next")
    told.add_argument("--checkpoints_total_limit", type=int, metavar="N", help="keep the last N; left out, all")
    told.add_argument("--resume_from_checkpoint", metavar="NAME", help="a checkpoint folder, or latest")
    told.add_argument("--validation_steps", type=int, help="steps from one validation video to the next")
    told.add_argument("--validation_image", metavar="FILE", help="photo of the validation; left out, there is none")
    told.add_argument("--validation_control_folder", metavar="DIR", help="its skeleton images")
    told.add_argument("--validation_image_folder", metavar="DIR", help="the true frames, for the metrics")
    told.add_argument("--validation_inference_steps", type=int, help="denoising steps of the validation video")
    told.add_argument("--validation_guidance_scale", type=float, help="its guidance")
    told.add_argument("--report_to", choices=("none", "all", *TRACKERS), help="where the curves go")
    told.add_argument("--logging_dir", metavar="DIR", help="for the tracker, in the output folder")
    retired = parser.add_argument_group("accepted, with nothing to do")
    for name, reason in RETIRED.items():
        retired.add_argument(f"--{name}", nargs="?", const=True, default=None, metavar="…", help=reason)
    cli.use_defaults(parser, TrainingSettings)
    return parser


def read_settings(arguments: list[str] | None = None) -> TrainingSettings:
    """Parse a command line; flags with nothing to do are told in the log."""
    values = vars(build_parser().parse_args(arguments))
    for name, reason in RETIRED.items():
        if values.pop(name) is not None:
            logger.info("--%s does nothing: %s", name, reason)
    values["bucket"] = values["bucket"] or []
    return TrainingSettings(**values)


def main() -> None:
    """Parse, check, train."""
    cli.start_logging()
    settings = read_settings()
    if settings.check_data:
        print(settings.describe_data())
        return
    buckets = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.training.loop import train

    train(settings, buckets)
