"""Write a mask for each picture of a folder, or each frame of a video: faces white, all else black.

    python face_mask_extraction.py --image_folder case/images

writes case/faces with the same names. Masks that are there already stay.
"""

import argparse

from animation import cli
from animation.face.masks import NO_FACE, SHAPES, FaceMaskSettings, extract_masks


def build_parser() -> argparse.ArgumentParser:
    """The released script's flag by its name and meaning, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument("--image_folder", metavar="DIR", help="PNG or JPEG pictures")
    inputs.add_argument("--video", metavar="FILE", help="a video file instead; its masks are frame_0.png …")
    inputs.add_argument(
        "--masks_folder", metavar="DIR", help="where the masks go; left out, faces beside the folder or the video"
    )

    masks = parser.add_argument_group("masks")
    masks.add_argument("--shape", choices=SHAPES, help="the detector's box, or the oval within it")
    masks.add_argument("--feather", type=float, metavar="PIXELS", help="over which the edge fades from white to black")
    masks.add_argument(
        "--no_face",
        choices=NO_FACE,
        help="the mask of a picture without a face: black, no face; white, all of it, which is how the original's "
        "training weighs a frame that is unknown",
    )

    networks = parser.add_argument_group("networks")
    networks.add_argument("--face_models", metavar="DIR", help="insightface's antelopev2")
    networks.add_argument(
        "--dwpose_models", metavar="DIR", help="DWPose's networks, which find the faces that insightface's do not"
    )
    networks.add_argument("--device", choices=("cpu", "cuda"), help="cuda: where onnxruntime can")
    cli.use_defaults(parser, FaceMaskSettings)
    return parser


def main() -> None:
    """Parse, check, extract."""
    settings = FaceMaskSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    extract_masks(settings, settings.read_inputs())
