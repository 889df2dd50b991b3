"""Animate a photo with a folder of skeleton images, and draw each frame's face towards the photo's on the way.

    python inference_op.py --validation_image photo.png --validation_control_folder poses --output_dir output

HJB-based face optimisation: at each refined step the predicted frames are decoded, and their latents moved so that
ArcFace sees the photo's face in them. Where the faces are is told by the poses' keypoints.npz, or by masks. Writes what
inference_basic.py writes; run.json gets the faces' similarity before and after each refined step.
"""

import argparse
from functools import partial

from animation import cli, flags
from animation.face.settings import FaceOptimizationSettings
from inference_basic import build_parser as build_basic_parser


def build_parser() -> argparse.ArgumentParser:
    """The released script's flags by their names and meanings, and ours."""
    parser = build_basic_parser(__doc__, FaceOptimizationSettings)
    faces = parser.add_argument_group("face optimisation")
    faces.add_argument(
        "--validation_image_mask",
        metavar="FILE",
        help="the photo's face white on black; left out, it is taken from the key points or found by the face models",
    )
    faces.add_argument(
        "--validation_control_mask_folder",
        metavar="DIR",
        help="a mask of the face for each pose, white on black; left out, the key points tell",
    )
    faces.add_argument(
        "--keypoints",
        metavar="FILE.npz",
        help="what the skeletons were drawn from; left out, keypoints.npz beside them",
    )
    faces.add_argument(
        "--face_embedding_extractor_weight_path",
        metavar="FILE",
        help="ArcFace as .pth, .safetensors or .onnx; where the default is missing, glintr100.onnx of --face_models",
    )
    flags.add_face_optimization(faces)
    faces.add_argument("--max_frame_num", type=int, help="accepted and unused, as ever: see --max_frames")
    faces.add_argument("--batch_frames", type=int, help="accepted and unused, as ever: see --decode_chunk_size")
    return parser


def main() -> None:
    """Parse, check, animate."""
    settings = FaceOptimizationSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.face_optimization import build_face_optimizer
    from animation.inference import animate

    animate(settings, inputs, partial(build_face_optimizer, settings, inputs))


if __name__ == "__main__":
    cli.run(main)
