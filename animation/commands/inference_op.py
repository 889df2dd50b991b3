"""Animate a photo with a folder of skeleton images, and draw each frame's face towards the photo's on the way.

    python inference_op.py --validation_image photo.png --validation_control_folder poses --output_dir output

HJB-based face optimisation: at each refined step the predicted frames are decoded, and their latents moved so that
ArcFace sees the photo's face in them. Where the faces are is told by the poses' keypoints.npz, or by masks. Writes what
inference_basic.py writes; run.json gets the faces' similarity before and after each refined step.
"""

from animation import cli
from animation.face.settings import FaceOptimizationSettings
from animation.flags import parse
from animation.parallel import Processes
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, animate."""
    processes = Processes.of_environment()
    cli.start_logging(processes.log_level)
    settings = fill_in(parse(FaceOptimizationSettings, __doc__))
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.run import animate

    animate(settings, inputs, processes)
