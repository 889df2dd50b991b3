"""Write a mask for each picture of a folder, or each frame of a video: faces white, all else black."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("face_mask_extraction")
