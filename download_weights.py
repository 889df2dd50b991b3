"""Fetch the released checkpoints from the Hugging Face hub into their places."""

from animation import cli
from animation.commands.download_weights import main

if __name__ == "__main__":
    cli.run(main)
