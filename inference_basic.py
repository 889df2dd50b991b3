"""Animate a photo with a folder of skeleton images."""

from animation import cli
from animation.commands.inference_basic import main

if __name__ == "__main__":
    cli.run(main)
