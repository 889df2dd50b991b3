"""Write a mask for each picture of a folder, or each frame of a video: faces white, all else black.

    python face_mask_extraction.py --image_folder case/images

Writes case/faces with the same names. Masks that are there already stay.
"""

from animation import cli
from animation.face.masks import FaceMaskSettings, extract_masks
from animation.files import locked
from animation.flags import parse
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, extract."""
    cli.start_logging()
    settings = fill_in(parse(FaceMaskSettings, __doc__))
    pictures, folder = settings.read_inputs()
    with locked(folder):
        extract_masks(settings, pictures, folder)
