"""What a clip was asked for, so that the same command with nothing to do answers before torch is imported."""

import hashlib
import importlib.metadata
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from animation.clip.settings import STATE_FILE, STATE_FOLDER, ClipInputs, ClipSettings
from animation.files import LOCK_FILE, locked, read_json
from animation.weights.layout import PLACES

RUN_FILE = "run.json"
LIBRARIES = ("torch", "diffusers", "transformers")
NAMED = (*PLACES, "face_embedding_extractor_weight_path", "vae", "photo", "face_photo", "face_embedding")  # files


def request_key(settings: ClipSettings, inputs: ClipInputs) -> str:
    """A hash of all that was asked for: resolved settings, and what tells files from others without reading them."""
    named = [getattr(settings, name, None) for name in NAMED]
    files = [path for root in map(Path, filter(None, named)) for path in (root, *root.parent.glob(f"{root.stem}.*"))]
    files += [path for folder in files if folder.is_dir() for path in folder.rglob("*")]
    states = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.is_file()}
    versions = [importlib.metadata.version(library) for library in LIBRARIES]
    asked = [asdict(settings) | {"again": None}, inputs.driver.describe(), states, versions]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()


def finished(settings: ClipSettings, inputs: ClipInputs) -> bool:
    """Whether the clip that is asked for is in the output folder already."""
    made = read_json(Path(settings.output) / RUN_FILE)
    return not settings.again and made.get("request") == request_key(settings, inputs) and is_whole(settings, made)


def clear(settings: ClipSettings) -> None:
    """Remove what a run that was killed after its last file left in the output folder: its lock, and its state.

    A state that is younger than run.json is another run's, and stays. Raises InputError: a run is at work there.
    """
    output = Path(settings.output)
    state, made = output / STATE_FOLDER, output / RUN_FILE
    if not (state.exists() or (output / LOCK_FILE).exists()):
        return
    with locked(output):
        begun = state / STATE_FILE
        if not begun.exists() or begun.stat().st_mtime <= made.stat().st_mtime:
            shutil.rmtree(state, ignore_errors=True)


def is_whole(settings: ClipSettings, made: dict) -> bool:
    """Whether everything that a run.json names is there."""
    names = made.get("outputs")
    return (
        isinstance(names, list) and bool(names) and all((Path(settings.output) / str(name)).exists() for name in names)
    )
