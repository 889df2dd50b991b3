"""Train a VAE on frames: SVD's temporal one, or a tiny one (TAESD's architecture) for previews."""

from animation import cli
from animation.commands.train_vae import main

if __name__ == "__main__":
    cli.run(main)
