"""Compare generated frames with ground truth, over one case or many.

    python evaluate.py --results output --truth inference --output_dir output/evaluation

Prints a table and writes metrics.json, a CSV a case and contact_sheet.png to the output folder. The layout of a case
stands in the README; what a case does not have is not needed.
"""

import argparse

from animation import cli
from animation.evaluation.settings import FACE_MODELS, POSE_MODELS, EvaluationSettings


def build_parser() -> argparse.ArgumentParser:
    """The flags, named as the fields of `EvaluationSettings`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument(
        "--results",
        required=True,
        metavar="DIR",
        help="generated frames: a folder a case, as inference_basic.py writes it; or one case's frames or MP4",
    )
    inputs.add_argument(
        "--truth",
        required=True,
        metavar="DIR",
        help="what they are compared with: a folder a case of the same name; or one case, or its frames or MP4",
    )
    inputs.add_argument("--output_dir", required=True, metavar="DIR", help="where the results go; made where missing")
    inputs.add_argument("--cases", nargs="+", metavar="NAME", help="compare only these; left out, all in --truth")
    inputs.add_argument("--max_frames", type=int, metavar="N", help="compare the first N frames; left out, all")

    networks = parser.add_argument_group("networks (a metric without its own is not run, and the table says so)")
    networks.add_argument(
        "--lpips_weights", metavar="FILE", help="torchvision's AlexNet or VGG-16 file, whose features LPIPS compares"
    )
    networks.add_argument("--fvd_weights", metavar="FILE", help="I3D trained on Kinetics-400, a state dict, for FVD")
    networks.add_argument("--fvd_clip_frames", type=int, metavar="N", help="frames of the clips that FVD compares")
    networks.add_argument(
        "--face_models", metavar="DIR", help=f"insightface's antelopev2, for CSIM; left out, {FACE_MODELS} if there"
    )
    networks.add_argument(
        "--pose_models", metavar="DIR", help=f"DWPose's ONNX files, for PCK; left out, {POSE_MODELS} if there"
    )
    networks.add_argument("--device", help="auto, cuda, cuda:N, mps or cpu")
    cli.use_defaults(parser, EvaluationSettings)
    return parser


def main() -> None:
    """Parse, check, measure."""
    arguments = vars(build_parser().parse_args())
    settings = EvaluationSettings(**{**arguments, "cases": tuple(arguments["cases"])})
    cli.start_logging()
    cases = settings.read_cases()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.evaluation.evaluation import evaluate

    evaluate(settings, cases)
