"""Take skeletons from frames or a video, aligned to the person in the photo."""

from animation import cli
from animation.commands.skeleton_extraction import main

if __name__ == "__main__":
    cli.run(main)
