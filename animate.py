"""Animate a photo with a video, in one command."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("animate")
