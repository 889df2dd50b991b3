"""Train a VAE on frames: SVD's temporal one, or a tiny one (TAESD's architecture) for previews.

    python train_vae.py --vae folder/of/a/vae --frames clip/images --output_dir output/vae

The folder's config.json says which; where weights lie beside it, training goes on from them. Writes checkpoint-N/vae/,
a diffusers folder. The method itself never trains its VAE.
"""

import argparse

from animation import cli
from animation.training.vae_settings import VaeSettings


def build_parser() -> argparse.ArgumentParser:
    """The flags of a VAE's training, named as those of train.py where they mean the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--vae", required=True, metavar="DIR", help="config.json, and weights to go on from or none")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="where the results go; made where missing")
    parser.add_argument("--data_path", metavar="LIST", help="a text file of clip folders, as for train.py")
    parser.add_argument("--frames", nargs="+", metavar="DIR", help="folders of numbered frames")
    parser.add_argument(
        "--teacher",
        metavar="DIR",
        help="for AutoencoderTiny and AutoencoderDC: the VAE whose latents it learns to encode and decode",
    )
    parser.add_argument("--width", type=int, help="pixels, a multiple of 64")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 64")
    parser.add_argument("--sample_n_frames", type=int, help="consecutive frames of a sample")
    parser.add_argument("--kl_weight", type=float, help="of the posterior's divergence from a normal distribution")
    parser.add_argument("--per_gpu_batch_size", type=int, help="samples at once in each process")
    parser.add_argument("--gradient_accumulation_steps", type=int, help="such batches for one optimizer step")
    parser.add_argument("--max_train_steps", type=int, help="optimizer steps in all")
    parser.add_argument("--learning_rate", type=float, help="of AdamW")
    parser.add_argument("--max_grad_norm", type=float, help="gradients are scaled down to this norm; 0: never")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="left out, what accelerate's config says")
    parser.add_argument("--num_workers", type=int, help="processes that read, for each process that trains")
    parser.add_argument("--checkpointing_steps", type=int, help="steps from one checkpoint to the next")
    parser.add_argument("--checkpoints_total_limit", type=int, metavar="N", help="keep the last N; left out, all")
    parser.add_argument("--resume_from_checkpoint", metavar="NAME", help="a checkpoint folder, or latest")
    parser.add_argument("--report_to", choices=("none", "tensorboard", "wandb"), help="where the curves go")
    parser.add_argument("--seed", type=int, help="the same seed gives the same training")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")
    cli.use_defaults(parser, VaeSettings)
    return parser


def main() -> None:
    """Parse, check, train."""
    cli.start_logging()
    values = vars(build_parser().parse_args())
    settings = VaeSettings(**{**values, "frames": values["frames"] or []})
    clips = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.training.vae import train_vae

    train_vae(settings, clips)
