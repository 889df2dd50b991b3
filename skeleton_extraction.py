"""Take skeletons from frames or a video, aligned to the person in the photo.

    python skeleton_extraction.py --target_video dance.mp4 --ref_image_path photo.png --poses_folder_path poses

Writes frame_0.png …, RGB as the models were trained on, and keypoints.npz to the poses folder.
"""

import argparse

from animation import cli, flags
from animation.skeletons.settings import SkeletonSettings
from DWPose.sessions import DEVICES


def build_parser() -> argparse.ArgumentParser:
    """The released script's flags by their names and meanings, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument(
        "--target_image_folder_path",
        metavar="DIR",
        help="the driver's frames, in the order of the numbers in their names",
    )
    inputs.add_argument("--target_video", metavar="FILE", help="the driver as a video file instead")
    inputs.add_argument(
        "--ref_image_path", metavar="FILE", help="the photo of the person; needed unless --alignment none"
    )
    inputs.add_argument(
        "--poses_folder_path", required=True, metavar="DIR", help="where the skeletons go; made where missing"
    )
    inputs.add_argument("--start", type=float, metavar="SECONDS", help="where in the driver to begin; left out, at 0")
    inputs.add_argument("--end", type=float, metavar="SECONDS", help="where to end; left out, with the driver")
    inputs.add_argument("--stride", type=int, metavar="N", help="take every N-th frame")
    inputs.add_argument(
        "--fps",
        type=float,
        help="take a video's frames at this rate (left out, all of them); of a folder, the rate it was taken at "
        "(left out, 30)",
    )
    inputs.add_argument(
        "--keypoints",
        metavar="FILE",
        help="a keypoints.npz of an earlier run: draws from it and runs no network; a driver given beside it only "
        "appears in the preview",
    )
    inputs.add_argument(
        "--preview", metavar="FILE.mp4", help="also write photo, driver and aligned skeleton side by side"
    )

    networks = parser.add_argument_group("networks")
    networks.add_argument("--detector_path", metavar="FILE", help="the person detector, YOLOX")
    networks.add_argument("--pose_path", metavar="FILE", help="the pose estimator, DWPose")
    networks.add_argument("--device", choices=DEVICES, help="auto: CUDA where onnxruntime can")

    skeletons = flags.add_skeletons(parser)
    skeletons.add_argument(
        "--size",
        metavar="WxH",
        help="of the skeletons; left out, the photo's, or the driver's own with --alignment none",
    )
    cli.use_defaults(parser, SkeletonSettings)
    return parser


def main() -> None:
    """Parse, check, extract."""
    settings = SkeletonSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    inputs = settings.read_inputs()
    from animation.skeletons.extraction import extract

    extract(settings, inputs)


if __name__ == "__main__":
    cli.run(main)
