"""One evaluation from cases to files: measure case by case → table, metrics.json, a CSV a case, contact sheet."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from animation import runtime
from animation.evaluation.cases import Case, chunks
from animation.evaluation.measures import Measure, make_measures
from animation.evaluation.metrics import frechet_distance
from animation.evaluation.records import LARGEST_SHEET, Record, contact_sheet, summary, table
from animation.evaluation.settings import EvaluationSettings
from animation.files import write_json, write_whole
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
            progress.update(len(chunk.result))
    for measure in measures:
        record.faces |= measure.faces
        record.features |= measure.features
    return record


def evaluate(settings: EvaluationSettings, cases: Sequence[Case]) -> list[Record]:
    """Measure what `settings.read_cases()` returned, print the table, and write all to `settings.output_dir`.

    A case that an interrupted evaluation with the same settings and files had measured is not measured again.

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
    print(table(records, fvd["value"] if fvd else None, not_run))
    facts = {"settings": asdict(settings), "device": device_name(device), "versions": library_versions(LIBRARIES)}
    sheet = contact_sheet(cases)
    write_json(output_dir / "metrics.json", facts | summary(records, fvd, not_run))
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
    facts = [asdict(settings), case.name, files, *hashes, not_run]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
