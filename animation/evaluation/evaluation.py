"""One evaluation from cases to files: measure case by case → table, metrics.json, a CSV a case, contact sheet."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from animation import runtime
from animation.evaluation.cases import Case, chunks
from animation.evaluation.contact_sheet import LARGEST_SHEET, contact_sheet
from animation.evaluation.measures import Measure, NotRun, distance_of_clips, make_measures
from animation.evaluation.records import Record, metrics_json, table, write_csv
from animation.evaluation.settings import EvaluationSettings
from animation.files import write_json
from animation.report import device_name, library_versions

logger = logging.getLogger(__name__)

CHUNK = 16  # frames that are in memory at a time
LIBRARIES = ("torch", "numpy", "scikit-image", "torchmetrics", "pillow", "av", "insightface", "onnxruntime")
PROGRESS_FOLDER = ".partial"  # cases that are done, until all are


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
            progress.update(len(chunk))
    for measure in measures:
        record.faces |= getattr(measure, "faces", {})
        record.features |= getattr(measure, "features", {})
    return record


def evaluate(settings: EvaluationSettings, cases: Sequence[Case]) -> list[Record]:
    """Measure the cases, print the table, and write everything to `settings.output_dir`.

    A case that an interrupted evaluation with the same settings and files had measured is not measured again.

    Args:
        settings: of which everything is recorded in metrics.json.
        cases: what `settings.read_cases()` returned.

    Raises:
        InputError: a given weights file or a device does not do, or a frame cannot be read.
    """
    device = runtime.choose_device(settings.device)
    measures, not_run = make_measures(settings, device)
    output_dir = Path(settings.output_dir)
    partial = output_dir / PROGRESS_FOLDER
    partial.mkdir(parents=True, exist_ok=True)
    records = []
    with tqdm(total=sum(map(len, cases)), desc="measuring", unit="frame") as progress:
        for case in cases:
            path = partial / f"{fingerprint(settings, case, not_run)}.json"
            if path.is_file():
                records.append(Record(**json.loads(path.read_text(encoding="utf-8"))))
                progress.update(len(case))
                continue
            records.append(measure_case(case, measures, progress))
            write_json(path, asdict(records[-1]))
    fvd = _video_distance(settings, records, not_run)
    print(table(records, None if fvd is None else fvd["value"], not_run))
    facts = {"settings": asdict(settings), "device": device_name(device), "versions": library_versions(LIBRARIES)}
    _write(output_dir, partial, cases, records, metrics_json(records, fvd, not_run, facts))
    return records


def _video_distance(settings: EvaluationSettings, records: Sequence[Record], not_run: dict) -> dict | None:
    """FVD and how many clips it comes from; None, with the reason in `not_run`, where it cannot be had."""
    if "fvd" in not_run:
        return None
    results, truths = ([row for r in records for row in r.features.get(part, [])] for part in ("result", "truth"))
    try:
        value = distance_of_clips(results, truths, settings.fvd_clip_frames)
    except NotRun as reason:
        not_run["fvd"] = str(reason)
        return None
    if len(results) <= len(results[0]):
        logger.warning(
            "FVD of %d clips with %d features each: too few for a value that compares with another set of cases",
            len(results),
            len(results[0]),
        )
    return {"value": value, "clips": len(results), "clip_frames": settings.fvd_clip_frames}


def fingerprint(settings: EvaluationSettings, case: Case, not_run: dict) -> str:
    """A name for the measurement of one case: it changes with the settings, the frames and what can be run."""
    files = []
    for frames in (case.result, case.truth, case.driver):
        for path in [] if frames is None else frames.paths:
            files.append([str(path), path.stat().st_size, path.stat().st_mtime_ns])
    keypoints = None if case.keypoints is None else hashlib.sha256(case.keypoints.tobytes()).hexdigest()
    photo = None if case.photo is None else hashlib.sha256(case.photo.tobytes()).hexdigest()
    facts = [asdict(settings), case.name, files, keypoints, photo, not_run]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _write(output_dir: Path, partial: Path, cases: Sequence[Case], records: Sequence[Record], text: str) -> None:
    """Write all files beside the progress, then move them to their places."""
    (partial / "metrics.json").write_text(text, encoding="utf-8")
    for record in records:
        write_csv(partial / f"{record.name}.csv", record)
    contact_sheet(cases).save(partial / "contact_sheet.png")
    if len(cases) > LARGEST_SHEET:
        logger.info("the contact sheet shows the first %d of %d cases", LARGEST_SHEET, len(cases))
    names = ["metrics.json", "contact_sheet.png", *(f"{record.name}.csv" for record in records)]
    for name in names:
        (partial / name).replace(output_dir / name)
    shutil.rmtree(partial)
    logger.info("written to %s: metrics.json, contact_sheet.png and %d CSV files", output_dir, len(records))
