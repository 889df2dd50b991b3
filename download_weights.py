"""Fetch the released checkpoints from the Hugging Face hub into their places."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("download_weights")
