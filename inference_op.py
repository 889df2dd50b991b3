"""Animate a photo with a folder of skeleton images, and draw each frame's face towards the photo's on the way."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("inference_op")
