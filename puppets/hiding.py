"""Photos that do not show whose face it is: small, turned away, in shadow or blurred."""

from dataclasses import replace

import cv2
import numpy as np

from puppets.clips import Clip
from puppets.rendering import render

WAYS = ("small", "turned", "shadow", "blur")
SMALL = 0.45  # of the height that the character has in the clip
TURNED = 1.45  # radians
SHADOW = 0.15  # of the light that is left
BLUR = 0.25  # standard deviation, of the face's width


def hide(clip: Clip, frame: float, width: int, height: int, way: str) -> np.ndarray:
    """The picture of a clip at a frame, its characters' faces hidden; their hair and clothes stay to be seen.

    Args:
        way: `small`: far away; `turned`: in profile; `shadow`, `blur`: only the head is.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: another way, or a picture below 16 pixels.
    """
    if way not in WAYS:
        raise ValueError(f"way {way!r} is unknown; use one of {', '.join(WAYS)}")
    actors = [(character, motion(frame), place) for character, motion, place in clip.actors]
    if way == "small":
        actors = [(who, pose, replace(place, height=SMALL * place.height)) for who, pose, place in actors]
    if way == "turned":
        actors = [(who, replace(pose, yaw=np.copysign(TURNED, pose.yaw)), place) for who, pose, place in actors]
    image, truths = render(actors, clip.stage, width, height)
    for truth in truths if way in ("shadow", "blur") else ():
        x0, y0, x1, y1 = truth.face_box
        centre, radii = ((x0 + x1) / 2, (y0 + y1) / 2), (0.6 * (x1 - x0), 0.6 * (y1 - y0))
        rows, columns = np.mgrid[:height, :width] + 0.5
        inside = ((columns - centre[0]) / radii[0]) ** 2 + ((rows - centre[1]) / radii[1]) ** 2 <= 1
        changed = SHADOW * image if way == "shadow" else cv2.GaussianBlur(image, (0, 0), max(BLUR * (x1 - x0), 0.1))
        image = np.where(inside[..., None], changed, image).astype(np.uint8)
    return image
