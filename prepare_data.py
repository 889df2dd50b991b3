"""Make a training data set of a folder of videos: frames, skeletons, face masks and the lists that train.py reads."""

from animation import cli
from animation.commands.prepare_data import main

if __name__ == "__main__":
    cli.run(main)
