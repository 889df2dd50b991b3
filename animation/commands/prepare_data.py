"""Make a training data set of a folder of videos: frames, skeletons, face masks and the lists that train.py reads.

    python prepare_data.py --videos videos --root_path animation_data --processes 4

Writes animation_data/rec/00001/{images,poses,faces}/frame_0.png … (vec/ for tall videos) and video_rec_path.txt,
video_vec_path.txt. The same command goes on where it was stopped.
"""

from animation import cli
from animation.flags import parse
from animation.training.preparation import PreparationSettings, prepare
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, prepare."""
    cli.start_logging()
    settings = fill_in(parse(PreparationSettings, __doc__))
    prepare(settings, settings.read_inputs())
