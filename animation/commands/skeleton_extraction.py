"""Take skeletons from frames or a video, aligned to the person in the photo.

    python skeleton_extraction.py --target_video dance.mp4 --ref_image_path photo.png --poses_folder_path poses

Writes frame_0.png …, RGB as the models were trained on, and keypoints.npz to the poses folder.
"""

from pathlib import Path

from animation import cli
from animation.files import locked
from animation.flags import parse
from animation.skeletons.settings import SkeletonSettings
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, extract."""
    cli.start_logging()
    settings = fill_in(parse(SkeletonSettings, __doc__))
    inputs = settings.read_inputs()
    from animation.skeletons.extraction import extract

    with locked(Path(settings.poses_folder_path)):
        extract(settings, inputs)
