"""Train StableAnimator's PoseNet, FaceEncoder and UNet on folders of clips."""

from animation import cli
from animation.commands.train import main

if __name__ == "__main__":
    cli.run(main)
