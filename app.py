"""A page in the browser on which to animate photos."""

from animation import cli
from animation.commands.app import main

if __name__ == "__main__":
    cli.run(main)
