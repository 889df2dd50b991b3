"""A picture to look at: for each case the photo, and driver, result and truth at a few moments."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from animation.evaluation.cases import Case

MOMENTS = 6  # frames shown of each video
THUMB = 144  # pixels, height
GAP, LABEL = 4, 18  # pixels
LARGEST_SHEET = 60  # cases


def _thumb(image: Image.Image) -> Image.Image:
    return image.resize((max(1, round(image.width * THUMB / image.height)), THUMB), Image.Resampling.LANCZOS)


def case_rows(case: Case) -> list[tuple[str, list[Image.Image]]]:
    """Named rows of thumbnails: driver (or, without one, poses), result and truth, as far as they are there."""
    moments = np.linspace(0, len(case) - 1, min(MOMENTS, len(case))).round().astype(int)
    driver = ("driver", case.driver) if case.driver is not None else ("poses", case.poses)
    rows = (driver, ("result", case.result), ("truth", case.truth))
    return [(name, [_thumb(frames[int(i)]) for i in moments]) for name, frames in rows if frames is not None]


def contact_sheet(cases: Sequence[Case]) -> Image.Image:
    """Draw the sheet, RGB, a block a case under its name: the photo left, the rows of `case_rows` right of it.

    Of more than `LARGEST_SHEET` cases the first are shown.
    """
    font = ImageFont.load_default(size=12)
    blocks = []
    for case in cases[:LARGEST_SHEET]:
        rows = case_rows(case)
        photo = None if case.photo is None else _thumb(case.photo)
        left = (photo.width if photo else 0) + GAP
        right = max(sum(image.width + GAP for image in images) for _, images in rows)
        block = Image.new("RGB", (GAP + left + right, LABEL + len(rows) * (THUMB + GAP)), "white")
        draw = ImageDraw.Draw(block)
        names = " / ".join((["photo"] if photo else []) + [name for name, _ in rows])
        draw.text((GAP, 2), f"{case.name}: {names}", fill="black", font=font)
        if photo:
            block.paste(photo, (GAP, LABEL))
        for j, (_, images) in enumerate(rows):
            x = GAP + left
            for image in images:
                block.paste(image, (x, LABEL + j * (THUMB + GAP)))
                x += image.width + GAP
        blocks.append(block)
    sheet = Image.new("RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), "white")
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return sheet
