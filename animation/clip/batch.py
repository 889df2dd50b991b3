"""Many clips in one load of the models; what fails does not stop the others."""

import logging
import time
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm

from animation.cli import listed
from animation.clip.cases import Case
from animation.clip.flow import Models, make_clip
from animation.clip.plan import fit
from animation.cluster import Cluster, Stage, do_all
from animation.errors import InputError, RunError
from animation.files import write_json
from animation.networks import ANEW, Networks

logger = logging.getLogger(__name__)

CASES_FILE = "cases.json"
SECONDS_BETWEEN_SAVES = 5.0
MADE, FAILED = "made", "FAILED"


class ClipMaker:
    """Makes clips, one after the other, with the networks that the first one loaded."""

    def __init__(self) -> None:
        self.models = Models(networks=Networks(keep=True))

    def __call__(self, case: Case) -> dict:
        """Make one, or leave it where it is there already; its row, as `row_of` has it."""
        logger.info("%s", case.name)
        start = time.perf_counter()
        try:
            facts, note = self._make(case), None
        except (InputError, RunError) as error:
            facts, note = None, str(error)
        except OSError as error:
            facts, note = None, f"{error.filename or 'writing failed'}: {error.strerror or error}"
        except Exception as error:  # of a library: the other cases may do all the same
            facts, note = None, f"{type(error).__name__}: {error}"
            logger.error("%s", traceback.format_exc())
        return row_of(case, note, facts, time.perf_counter() - start)

    def _make(self, case: Case) -> dict:
        """Make a clip; returns the facts in its run.json."""
        settings, inputs = case.settings, case.inputs or case.settings.read_inputs()
        if settings.max_vram is not None:
            settings, plan = fit(settings, inputs, case.asked)
            logger.info("%s", plan.text())
            self.models.networks = ANEW  # the plan has no room for what stays open
        return make_clip(settings, inputs, self.models)


def row_of(case: Case, note: str | None, facts: dict | None = None, seconds: float = 0) -> dict:
    """What the table says of a case; without the facts of its run.json it has failed, and the note says why."""
    csim = ((facts or {}).get("csim") or {}).get("mean")
    return {
        "case": case.name,
        "state": MADE if facts else FAILED,
        "output": case.settings and case.settings.output,
        "frames": facts and facts["num_frames"],
        "seconds": round(seconds, 1),
        "note": note if csim is None else f"CSIM {csim:.3f}",
    }


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


def run_cases(cases: Sequence[Case], output: str | Path, cluster: Cluster) -> None:
    """Make the clips that are not there already, print the table, and keep it in `cases.json` while it grows.

    Raises:
        InputError: Ray cannot be reached.
        RunError: one or more failed, or Ray starts no worker, or loses all machines.
    """
    rows = {i: row_of(case, case.error, case.made) for i, case in enumerate(cases) if case.error or case.made}
    left = [i for i in range(len(cases)) if i not in rows]

    def keep() -> None:
        write_json(Path(output) / CASES_FILE, {"cases": [rows[number] for number in sorted(rows)]})

    kept = time.monotonic()
    with tqdm(total=len(left), desc="clips", unit="clip", disable=cluster.ray is None) as progress:
        jobs = [cases[i] for i in left]
        try:
            for number, row in do_all(
                cluster, [Stage(ClipMaker)], jobs, row_of, lambda running: _show(progress, rows.values(), running)
            ):
                rows[left[number]] = row
                progress.update()
                if row["state"] == FAILED:
                    logger.error("%s failed: %s", row["case"], row["note"])
                if time.monotonic() - kept > SECONDS_BETWEEN_SAVES:
                    keep()
                    kept = time.monotonic()
        finally:
            keep()
    print(summary([rows[number] for number in sorted(rows)]))
    failed = [row["case"] for row in rows.values() if row["state"] == FAILED]
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} clips failed: {listed(sorted(failed))}")


def _show(progress: tqdm, rows: Collection[dict], running: int) -> None:
    """Tell how the work goes on, beside what is done and the time that is left."""
    failed, seconds = sum(row["state"] == FAILED for row in rows), progress.format_dict["elapsed"]
    pace = progress.n * 3600 / seconds if seconds else 0
    progress.set_postfix_str(f"{running} running, {failed} failed, {pace:.0f} an hour")
