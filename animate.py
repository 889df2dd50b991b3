"""Animate a photo with a video, in one command."""

from animation import cli
from animation.commands.animate import main

if __name__ == "__main__":
    cli.run(main)
