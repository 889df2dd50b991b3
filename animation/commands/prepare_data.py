"""Make a training data set of a folder of videos: frames, skeletons, face masks and the lists that train.py reads.

    python prepare_data.py --videos videos --root_path animation_data --processes 4

Writes animation_data/rec/00001/{images,poses,faces}/frame_0.png … (vec/ for tall videos) and video_rec_path.txt,
video_vec_path.txt. The same command goes on where it was stopped.
"""

import argparse

from animation import cli
from animation.errors import InputError
from animation.face.masks import NO_FACE, SHAPES
from animation.training.preparation import PreparationSettings, prepare
from DWPose.sessions import DEVICES


def build_parser() -> argparse.ArgumentParser:
    """The flags of the released extraction scripts by their names and meanings, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--root_path", required=True, metavar="DIR", help="the data set; made where missing")
    parser.add_argument(
        "--videos", metavar="DIR", help="videos, in the order of their names; left out, the root's clips with images/"
    )
    parser.add_argument(
        "--name", metavar="{rec,vec}", help="the group; left out, rec or vec by each video's aspect ratio"
    )
    parser.add_argument("--start", type=int, metavar="N", help="number of the first clip")
    parser.add_argument("--end", type=int, metavar="N", help="number of the last clip; left out, all")
    parser.add_argument("--fps", type=float, help="take frames at this rate; left out, all of them")
    parser.add_argument("--least_frames", type=int, metavar="N", help="shorter clips are left out")
    parser.add_argument("--processes", type=int, metavar="N", help="clips at once; each loads the networks")
    parser.add_argument("--detector_path", metavar="FILE", help="the person detector, YOLOX")
    parser.add_argument("--pose_path", metavar="FILE", help="the pose estimator, DWPose")
    parser.add_argument("--face_models", metavar="DIR", help="insightface's antelopev2")
    parser.add_argument("--device", choices=DEVICES, help="auto: CUDA where onnxruntime can")
    parser.add_argument(
        "--person", metavar="{track,largest,N,all}", help="whose skeleton, as in skeleton_extraction.py"
    )
    parser.add_argument("--shape", choices=SHAPES, help="of the face masks")
    parser.add_argument("--no_face", choices=NO_FACE, help="the mask of a frame without a face")
    cli.use_defaults(parser, PreparationSettings)
    return parser


def main() -> None:
    """Parse, check, prepare."""
    settings = PreparationSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    jobs = settings.read_inputs()
    if len(prepare(settings, jobs)) == len(jobs):
        raise InputError(f"none of {len(jobs)} clips could be prepared; the reasons stand above")
