"""A picture to look at: for each case the photo, and driver, result and truth at a few moments."""

from collections.abc import Sequence

from PIL import Image

from animation.evaluation.cases import Case
from animation.media.panels import SheetBlock, draw_contact_sheet, pick_moments

LARGEST_SHEET = 60  # cases


def contact_sheet(cases: Sequence[Case]) -> Image.Image:
    """Draw the sheet, RGB, a block a case. Of more than `LARGEST_SHEET` cases the first are shown."""
    return draw_contact_sheet([case_block(case) for case in cases[:LARGEST_SHEET]])


def case_block(case: Case) -> SheetBlock:
    """The photo, and the rows driver (or, without one, poses), result and truth, as far as they are there."""
    moments = pick_moments(len(case))
    driver = ("driver", case.driver) if case.driver is not None else ("poses", case.poses)
    rows = (driver, ("result", case.result), ("truth", case.truth))
    return SheetBlock(
        title=case.name,
        photo=case.photo,
        times=[f"frame {i}" if case.fps is None else f"{i / case.fps:.2f} s" for i in moments],
        rows={name: [frames[i] for i in moments] for name, frames in rows if frames is not None},
    )
