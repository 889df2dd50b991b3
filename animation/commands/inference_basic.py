"""Animate a photo with a folder of skeleton images.

    python inference_basic.py --validation_image photo.png --validation_control_folder poses --output_dir output

Writes animated_images/frame_0.png …, animated_images.gif, animation.mp4 and run.json to the output folder.
"""

from animation import cli
from animation.flags import parse
from animation.parallel import Processes
from animation.settings import InferenceSettings
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, animate."""
    processes = Processes.of_environment()
    cli.start_logging(processes.log_level)
    settings = fill_in(parse(InferenceSettings, __doc__))
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.run import animate

    animate(settings, inputs, processes)
