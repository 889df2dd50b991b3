"""Train StableAnimator's PoseNet, FaceEncoder and UNet on folders of clips."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("train")
