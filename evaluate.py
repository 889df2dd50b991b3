"""Compare generated frames with ground truth, over one case or many."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("evaluate")
