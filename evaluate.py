"""Compare generated frames with ground truth, over one case or many."""

from animation import cli
from animation.commands.evaluate import main

if __name__ == "__main__":
    cli.run(main)
