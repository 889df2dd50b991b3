"""Animate a photo with a folder of skeleton images."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("inference_basic")
