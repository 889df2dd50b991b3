"""One evaluation from cases to files: measure case by case → table, metrics.json, a CSV a case, contact sheet."""

import csv
import functools
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from animation import runtime
from animation.cluster import Stage, do_all
from animation.errors import RunError
from animation.evaluation.cases import Case, chunks
from animation.evaluation.measures import Measure, make_measures
from animation.evaluation.metrics import frechet_distance
from animation.evaluation.settings import EvaluationSettings
from animation.files import write_json, write_whole
from animation.flags import LATENTS
from animation.media.panels import SheetBlock, draw_contact_sheet, pick_moments
from animation.report import device_name, library_versions

logger = logging.getLogger(__name__)

CHUNK = 16  # frames that are in memory at a time
LIBRARIES = ("torch", "numpy", "scikit-image", "torchmetrics", "pillow", "av", "insightface", "onnxruntime")
PROGRESS_FOLDER = ".partial"  # cases that are done, until all are
LARGEST_SHEET = 60  # cases
# Columns as the table shows them: (heading, digits behind the point).
HEADINGS = {
    "l1": ("L1", 4),
    "psnr": ("PSNR", 2),
    "psnr_disco": ("PSNR*", 2),
    "ssim": ("SSIM", 4),
    "lpips": ("LPIPS", 4),
    "fvd": ("FVD", 1),
    "csim_photo": ("CSIM photo", 3),
    "csim_truth": ("CSIM truth", 3),
    "csim_driver": ("CSIM driver", 3),
    "pck_0.05": ("PCK@0.05", 3),
    "pck_0.1": ("PCK@0.1", 3),
}
NOTES = (
    "PSNR in dB as defined. PSNR* is DisCo's script, whose squared errors overflow in uint8: it compares with "
    "published tables that used it, and with nothing else.",
    "L1: mean absolute difference, values in 0..1. Means are over a case's frames, then over the cases.",
)


@dataclass(kw_only=True)
class Record:
    """What was measured on one case."""

    name: str
    num_frames: int
    size: tuple[int, int]  # width and height, pixels
    values: dict[str, list[float | None]]  # by column, one a frame
    not_run: dict[str, str] = field(default_factory=dict)  # by column, why it is not there
    faces: dict[str, list[int]] = field(default_factory=dict)  # by part of the case, frames with a face and all frames
    features: dict[str, list[list[float]]] = field(default_factory=dict)  # by part, of the video distance

    @property
    def means(self) -> dict[str, float]:
        """By column, the mean of the frames that have a value."""
        known = {name: [value for value in values if value is not None] for name, values in self.values.items()}
        return {name: math.fsum(values) / len(values) for name, values in known.items() if values}

    def summary(self) -> dict:
        """The record's entry in metrics.json."""
        counts = {name: sum(value is not None for value in values) for name, values in self.values.items()}
        return {
            "frames": self.num_frames,
            "width": self.size[0],
            "height": self.size[1],
            "metrics": _finite(self.means),
            "frames_measured": counts,
            "frames_without_face": {part: total - found for part, (found, total) in self.faces.items() if total},
            "not_run": self.not_run,
        }

    def write_csv(self, path: Path) -> None:
        """Write a line a frame; an empty cell is a value that does not exist."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", *self.values])
            for i, row in enumerate(zip(*self.values.values(), strict=True)):
                writer.writerow([i, *row])


def _finite(values: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no infinity (a PSNR of equal frames): it is written as the text inf."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def overall(records: Sequence[Record]) -> dict[str, tuple[float, int]]:
    """By column, the mean over the cases that have it, and how many these are."""
    means = {name: [record.means[name] for record in records if name in record.means] for name in HEADINGS}
    return {name: (math.fsum(values) / len(values), len(values)) for name, values in means.items() if values}


def summarise(records: Sequence[Record], fvd: dict | None, not_run: Mapping[str, str]) -> dict:
    """What metrics.json says of all cases: the means, by column why one was not run, and each case's entry."""
    means = overall(records)
    return {
        "mean": _finite({name: value for name, (value, _) in means.items()}),
        "cases_measured": {name: count for name, (_, count) in means.items()},
        "fvd": fvd,
        "not_run": dict(not_run),
        "notes": NOTES,
        "cases": {record.name: record.summary() for record in records},
    }


def table(records: Sequence[Record], fvd: float | None, not_run: Mapping[str, str]) -> str:
    """The table of the screen: a line a case, the means, and what was not run with the reason."""
    means = {name: value for name, (value, _) in overall(records).items()}
    if fvd is not None:
        means["fvd"] = fvd
    told = [(name, why) for record in reversed(records) for name, why in record.not_run.items()]
    reasons = {name: why for name, why in told if name not in means} | dict(not_run)  # also of what no case has
    lines = [["case", "frames", *(heading for heading, _ in HEADINGS.values())]]
    lines += [[record.name, str(record.num_frames), *_cells(record.means, reasons)] for record in records]
    lines.append(["mean", str(sum(record.num_frames for record in records)), *_cells(means, reasons)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "-" * len(text[0])
    text = [text[0], rule, *text[1:-1], rule, text[-1], "", *NOTES]
    for part in ("result", "truth", "driver"):
        found, total = (sum(record.faces.get(part, (0, 0))[i] for record in records) for i in range(2))
        if total:
            text.append(f"no face found in {total - found} of {total} frames of the {part}; CSIM is over the others.")
    text += [f"{HEADINGS[name][0]}: not run: {reasons[name]}" for name in HEADINGS if name in reasons]
    return "\n".join(text)


def _cells(values: Mapping[str, float], reasons: Mapping[str, str]) -> list[str]:
    missing = {name: "not run" if name in reasons else "–" for name in HEADINGS}
    return [f"{values[name]:.{digits}f}" if name in values else missing[name] for name, (_, digits) in HEADINGS.items()]


def contact_sheet(cases: Sequence[Case]) -> Image.Image:
    """Draw the sheet, RGB, a block a case. Of more than `LARGEST_SHEET` cases the first are shown."""
    return draw_contact_sheet([case_block(case) for case in cases[:LARGEST_SHEET]])


def case_block(case: Case) -> SheetBlock:
    """The photo, and at a few moments driver (or, without one, poses), result and truth, as far as they are there."""
    moments = pick_moments(len(case))
    driver = ("driver", case.driver) if case.driver is not None else ("poses", case.poses)
    rows = (driver, ("result", case.result), ("truth", case.truth))
    return SheetBlock(
        title=case.name,
        photo=case.photo,
        times=[f"frame {i}" if case.fps is None else f"{i / case.fps:.2f} s" for i in moments],
        rows={name: [frames[i] for i in moments] for name, frames in rows if frames is not None},
    )


def measure_case(case: Case, measures: Sequence[Measure], progress: tqdm | None = None) -> Record:
    """Measure one case with all measures, reading each frame once."""
    record = Record(name=case.name, num_frames=len(case), size=case.size, values={})
    for measure in measures:
        record.not_run.update(measure.begin(case))
    for chunk in chunks(case, CHUNK):
        for measure in measures:
            for name, values in measure.values(chunk).items():
                record.values.setdefault(name, []).extend(values)
        if progress is not None:
            progress.update(len(chunk.result))
    for measure in measures:
        record.faces |= measure.faces
        record.features |= measure.features
    return record


def _measurer(settings: EvaluationSettings) -> Callable[[Case], Record]:
    """What measures cases in another process, with networks of its own."""
    measures, _ = make_measures(settings, runtime.choose_device(settings.device))
    return lambda case: measure_case(case, measures)


def _lost(case: Case, reason: str) -> Record:
    raise RunError(f"{case.name}: {reason}")


def evaluate(settings: EvaluationSettings, cases: Sequence[Case]) -> list[Record]:
    """Measure what `settings.read_cases()` returned, print the table, and write all to `settings.output_dir`.

    A case that an interrupted evaluation with the same settings and files had measured is not measured again.

    Raises:
        InputError: a given weights file or a device does not do, a frame cannot be read, or Ray not be reached.
        RunError: a case ended all workers of Ray that measured it.
    """
    device = runtime.choose_device(settings.device)
    measures, not_run = make_measures(settings, device)
    output_dir = Path(settings.output_dir)
    partial = output_dir / PROGRESS_FOLDER
    partial.mkdir(parents=True, exist_ok=True)
    paths = [partial / f"{fingerprint(settings, case, not_run)}.json" for case in cases]
    left = [(case, path) for case, path in zip(cases, paths, strict=True) if not path.is_file()]
    with tqdm(total=sum(len(case) for case, _ in left), desc="measuring", unit="frame") as progress:

        def here() -> Callable[[Case], Record]:
            return lambda case: measure_case(case, measures, progress)

        make = here if settings.ray is None else functools.partial(_measurer, settings)
        for number, record in do_all(settings, [Stage(make)], [case for case, _ in left], _lost):
            write_json(left[number][1], asdict(record))
            progress.update(0 if settings.ray is None else record.num_frames)
    records = [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    fvd = _video_distance(settings, records, not_run)
    print(table(records, fvd["value"] if fvd else None, not_run))
    facts = {"settings": asdict(settings), "device": device_name(device), "versions": library_versions(LIBRARIES)}
    sheet = contact_sheet(cases)
    write_json(output_dir / "metrics.json", facts | summarise(records, fvd, not_run))
    write_whole(output_dir / "contact_sheet.png", sheet.save)
    for record in records:
        write_whole(output_dir / f"{record.name}.csv", record.write_csv)
    shutil.rmtree(partial)
    if len(cases) > LARGEST_SHEET:
        logger.info(f"the contact sheet shows the first {LARGEST_SHEET} of {len(cases)} cases")
    logger.info(f"written to {output_dir}: metrics.json, contact_sheet.png and {len(records)} CSV files")
    return records


def _video_distance(settings: EvaluationSettings, records: Sequence[Record], not_run: dict) -> dict | None:
    """FVD and how many clips it comes from; None, with the reason in `not_run`, where it cannot be had."""
    if "fvd" in not_run:
        return None
    results, truths = ([row for r in records for row in r.features.get(part, [])] for part in ("result", "truth"))
    count, frames = len(results), settings.fvd_clip_frames
    if count < 2:
        not_run["fvd"] = f"{count} clips of {frames} frames with ground truth; 2 or more are needed"
        return None
    if count <= len(results[0]):
        logger.warning(
            f"FVD of {count} clips with {len(results[0])} features each: too few for a value that compares with "
            "another set of cases"
        )
    return {"value": frechet_distance(np.array(results), np.array(truths)), "clips": count, "clip_frames": frames}


def fingerprint(settings: EvaluationSettings, case: Case, not_run: dict) -> str:
    """A name for the measurement of one case: it changes with the settings, the frames and what can be run."""
    parts = [part for part in (case.result, case.truth, case.driver) if part is not None]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for part in parts for path in part.paths]
    arrays = (case.keypoints, case.photo)
    hashes = [None if part is None else hashlib.sha256(part.tobytes()).hexdigest() for part in arrays]
    facts = [settings.affecting(LATENTS), case.name, files, *hashes, not_run]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
