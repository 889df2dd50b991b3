"""Take skeletons from frames or a video, aligned to the person in the photo."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("skeleton_extraction")
