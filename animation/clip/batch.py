"""Many clips in one load of the models; what fails does not stop the others."""

import logging
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animation.cli import listed
from animation.clip.cases import Case
from animation.clip.flow import Models, make_clip
from animation.clip.plan import fit
from animation.errors import InputError, RunError
from animation.files import write_json

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
MADE, FAILED = "made", "FAILED"


def make_clips(cases: Sequence[Case]) -> list[dict]:
    """Make the clips, one after the other.

    Returns:
        A row for each: `case`, `state` (`MADE` or `FAILED`), `output`, `frames`, `seconds` and `note`.
    """
    models, rows = Models(), []
    for number, case in enumerate(cases, 1):
        logger.info("%s, %d of %d", case.name, number, len(cases))
        start = time.perf_counter()
        output = case.settings and case.settings.output
        row: dict[str, Any] = {"case": case.name, "state": FAILED, "output": output, "frames": None, "note": case.error}
        if case.error is None:
            try:
                settings = case.settings
                if settings.max_vram is not None:
                    settings, plan = fit(settings, case.inputs, case.asked)
                    logger.info("%s", plan.text())
                facts = make_clip(settings, case.inputs, models)
                csim = (facts.get("csim") or {}).get("mean")
                row |= {"state": MADE, "frames": facts["num_frames"]}
                row["note"] = None if csim is None else f"CSIM {csim:.3f}"
            except (InputError, RunError) as error:
                row["note"] = str(error)
            except OSError as error:
                row["note"] = f"{error.filename or 'writing failed'}: {error.strerror or error}"
            except Exception as error:  # of a library: the other cases may do all the same
                row["note"] = f"{type(error).__name__}: {error}"
                logger.error("%s", traceback.format_exc())
        if row["state"] == FAILED:
            logger.error("%s failed: %s", case.name, row["note"])
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append(row)
    return rows


def summary(rows: Sequence[dict]) -> str:
    """A table of all cases in plain text."""
    head = ("case", "state", "frames", "seconds", "note")
    lines = [head, *([str("" if row[name] is None else row[name]) for name in head] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip()
        for line in lines
    ]
    failed = sum(row["state"] == FAILED for row in rows)
    return "\n".join([*text, f"{len(rows) - failed} of {len(rows)} clips made" + (f", {failed} failed" * bool(failed))])


def run_cases(cases: Sequence[Case], output: str | Path) -> None:
    """Make all clips, print the table and write it to `summary.json`.

    Raises:
        RunError: one or more failed.
    """
    rows = make_clips(cases)
    print(summary(rows))
    write_json(Path(output) / SUMMARY_FILE, {"cases": rows})
    failed = [row["case"] for row in rows if row["state"] == FAILED]
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} clips failed: {listed(failed)}")
