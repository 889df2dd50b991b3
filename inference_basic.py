"""Animate a photo with a folder of skeleton images.

    python inference_basic.py --validation_image photo.png --validation_control_folder poses --output_dir output

Writes animated_images/frame_0.png …, animated_images.gif, animation.mp4 and run.json to the output folder.
"""

import argparse

from animation import cli, flags
from animation.settings import InferenceSettings


def build_parser(description: str = __doc__, settings: type[InferenceSettings] = InferenceSettings):
    """The released script's flags by their names and meanings, and ours, with the defaults of a settings class."""
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument("--validation_image", required=True, metavar="FILE", help="the photo of the person")
    inputs.add_argument(
        "--validation_control_folder",
        required=True,
        metavar="DIR",
        help="skeleton images, PNG or JPEG, in the order of the numbers in their names",
    )
    inputs.add_argument("--output_dir", required=True, metavar="DIR", help="where the results go; made where missing")
    inputs.add_argument(
        "--face_embedding",
        metavar="FILE.npy",
        help="a stored vector of 512 numbers; left out, it is computed from the photo",
    )
    inputs.add_argument(
        "--face",
        type=int,
        metavar="N",
        help="which of several faces in the photo, from the left and from 0; left out, the largest",
    )
    inputs.add_argument("--max_frames", type=int, metavar="N", help="animate the first N poses; left out, all")
    inputs.add_argument("--fps", type=float, help="frames a second of the written video")
    inputs.add_argument("--no_gif", action="store_true", help="do not write animated_images.gif")
    inputs.add_argument("--no_png", action="store_true", help="do not write animated_images/")

    flags.add_weights(parser)
    sampling = flags.add_sampling(parser)
    sampling.add_argument("--height", type=int, help="pixels, a multiple of 64")
    sampling.add_argument("--width", type=int, help="pixels, a multiple of 64")
    sampling.add_argument("--frames_overlap", type=int, help="frames that neighbouring windows share")
    sampling.add_argument("--overlap", type=int, help="accepted and unused, as ever: see --frames_overlap")
    sampling.add_argument(
        "--gradient_checkpointing",
        action="store_true",
        help="accepted and unused, as ever: gradients, where there are any, are always checkpointed",
    )
    flags.add_levers(parser)
    cli.use_defaults(parser, settings)
    return parser


def main() -> None:
    """Parse, check, animate."""
    settings = InferenceSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.inference import animate

    animate(settings, inputs)


if __name__ == "__main__":
    cli.run(main)
