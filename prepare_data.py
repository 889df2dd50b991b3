"""Make a training data set of a folder of videos: frames, skeletons, face masks and the lists that train.py reads."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("prepare_data")
