"""One clip from checked inputs to written files: skeletons → face → sampling → decoding → writing."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from animation import runtime
from animation.clip.results import CSIM_PLOT, SIDE_BY_SIDE, write_results
from animation.clip.settings import EMBEDDING_FILE, PHOTO_FILE, SKELETONS_FOLDER, ClipInputs, ClipSettings
from animation.clip.skeletons import digest, make_skeletons
from animation.clip.state import ClipState
from animation.face.detection import find_face_models
from animation.face.settings import FaceOptimizationSettings
from animation.files import describe_file, locked, read_json, write_json, write_whole
from animation.flags import FILES, FRAMES, LATENTS
from animation.media.sound import load_sound
from animation.media.writing import FRAMES_FOLDER, write_png
from animation.pipeline import AnimationPipeline
from animation.report import RunReport, device_name, library_versions
from animation.run import (
    choose_channel_order,
    embed_photo,
    explain_out_of_memory,
    load_pipeline,
    render,
    weights_files,
)
from animation.settings import InferenceSettings, Inputs
from animation.skeletons.estimation import KEYPOINTS_FILE

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"


class Models:
    """The pipeline that was loaded last, for clips that want the same one again."""

    def __init__(self) -> None:
        self._made_of: tuple | None = None
        self._pipeline: AnimationPipeline | None = None

    def __call__(self, settings: InferenceSettings, device: torch.device, report: RunReport) -> AnimationPipeline:
        """The pipeline that these settings name, loaded unless it is at hand."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in weights_files(settings, device)]
        levers = (settings.dtype, settings.offload, settings.vae_device, settings.attention, settings.compile)
        made_of = (tuple(files), levers, str(device))
        if self._made_of != made_of:
            self._pipeline = self._made_of = None  # before the next one is loaded
            self._pipeline, self._made_of = load_pipeline(settings, device, report), made_of
        else:
            report.add_files([name for name, _, _ in files])
        return self._pipeline


def make_clip(settings: ClipSettings, inputs: ClipInputs, models: Models) -> dict:
    """Make a clip, or go on with it, and write the results to `settings.output`.

    Args:
        settings: resolved.
        inputs: what `settings.read_inputs()` returned.
        models: what earlier clips loaded.

    Returns:
        The facts in run.json.

    Raises:
        InputError: a checkpoint or a device does not do, or an input is damaged further on.
        RunError: memory did not suffice, or NaN appeared.
        OSError: a file cannot be written; what was kept stays, and the same command goes on from there.
    """
    output = Path(settings.output)
    run = settings.inference_settings(inputs.framing, inputs.driver.fps)
    device = runtime.choose_device(settings.device)
    weights = weights_files(run, device)  # before minutes of work
    with locked(output):
        return _make_clip(settings, inputs, models, run, device, weights)


def _make_clip(
    settings: ClipSettings,
    inputs: ClipInputs,
    models: Models,
    run: InferenceSettings,
    device: torch.device,
    weights: list[Path],
) -> dict:
    output, framing, driver = Path(settings.output), inputs.framing, inputs.driver
    report = RunReport(asdict(settings), device)
    photo = settings.intermediate / PHOTO_FILE
    photo_pixels = np.asarray(framing.apply(inputs.photo))
    write_whole(photo, lambda path: write_png(path, photo_pixels))
    with explain_out_of_memory(run, device):
        with report.stage("skeletons"):
            poses, seconds = make_skeletons(settings, photo, framing, driver)
            sound = None
            if driver.has_sound and not settings.no_audio:
                sound = load_sound(driver.path, driver.start, seconds, settings.loop)
        with report.stage("face_embedding"):
            embedding, channel_order = _embedding(settings, inputs, run, device)
        run, run_inputs = _prepare(settings, inputs, poses)
        sampling, decoding, writing = _dependencies(settings, run, device, weights, photo, digest(poses), embedding)
        writing["driver"] = driver.describe()  # its sound too
        key = hashlib.sha256(json.dumps([sampling, decoding, writing], default=str).encode()).hexdigest()
        earlier = read_json(output / RUN_FILE)
        if not settings.again and earlier.get("key") == key and _all_there(output, earlier.get("outputs", [])):
            logger.info("%s: the clip is there already, made of the same; --again makes it anew", output)
            return earlier
        state = ClipState(output, sampling, decoding)
        resumed = _sample_and_decode(settings, run, run_inputs, state, models, device, report)
    outputs, facts = write_results(settings, inputs, run_inputs, state, sound, embedding, channel_order, device, report)
    report.add_files([settings.photo, *([driver.path] if driver.path.is_file() else []), *poses.paths])
    report.write(
        output / RUN_FILE,
        key=key,
        num_frames=facts.pop("num_frames"),
        driver={"kind": driver.kind, "path": str(driver.path), "fps": driver.fps},
        size=[framing.width, framing.height],
        face_channel_order=channel_order,
        face_found=bool(embedding.any()),
        resumed_from=resumed,
        outputs=outputs,
        **facts,
    )
    state.remove()
    _remove_stale(output, set(earlier.get("outputs", [])) - set(outputs))
    logger.info("written to %s: %s and %s", output, ", ".join(outputs), RUN_FILE)
    return read_json(output / RUN_FILE)


def _embedding(
    settings: ClipSettings, inputs: ClipInputs, run: InferenceSettings, device: torch.device
) -> tuple[np.ndarray, str]:
    """The face's embedding, given, kept or made anew, and the order of channels it was made with."""
    path = settings.intermediate / EMBEDDING_FILE
    channel_order = choose_channel_order(run)
    embedding = inputs.face_embedding
    if embedding is None:
        models = find_face_models(settings.face_models)
        made_of = {
            "photo": describe_file(Path(settings.photo)),
            "networks": [describe_file(model) for model in sorted(models.glob("*.onnx"))],
            "channel_order": channel_order,
            "face": settings.face,
            "dwpose": str(settings.dwpose_models),
        }
        made_file = path.with_suffix(".json")
        if read_json(made_file) == made_of and path.is_file():
            logger.info("%s: the face embedding of an earlier run is taken", path)
            return np.load(path, allow_pickle=False), channel_order
        made_file.unlink(missing_ok=True)
        embedding = embed_photo(inputs.photo, settings, channel_order, device)
        _save(path, embedding)
        write_json(made_file, made_of)
    else:
        path.with_suffix(".json").unlink(missing_ok=True)
        _save(path, embedding)
    return embedding, channel_order


def _save(path: Path, array: np.ndarray) -> None:
    def write(partial: Path) -> None:
        """As .npy, whatever the name."""
        with partial.open("wb") as file:
            np.save(file, array)

    write_whole(path, write)


def _prepare(settings: ClipSettings, inputs: ClipInputs, poses) -> tuple[InferenceSettings, Inputs]:
    """The run on the intermediate files, with face optimisation where it is wanted and the faces' places are known."""
    keypoints = settings.intermediate / SKELETONS_FOLDER / KEYPOINTS_FILE
    run = settings.inference_settings(inputs.framing, inputs.driver.fps, keypoints.is_file())
    if settings.face_optimization and not keypoints.is_file():
        logger.warning(
            "--face_optimization: where the faces are is unknown, as %s has no %s; the clip is made WITHOUT it",
            inputs.driver.path,
            KEYPOINTS_FILE,
        )
    return run, run.read_inputs()


def _dependencies(
    settings: ClipSettings,
    run: InferenceSettings,
    device: torch.device,
    weights: list[Path],
    photo: Path,
    poses_digest: str,
    embedding: np.ndarray,
) -> tuple[dict, dict, dict]:
    """What latents, frames and files depend on, by names that a user knows."""
    sampling = {f"--{name}": value for name, value in settings.affecting(LATENTS).items()}
    decoding = {f"--{name}": value for name, value in settings.affecting(FRAMES).items()}
    if isinstance(run, FaceOptimizationSettings):  # which decodes on the way
        sampling |= decoding
    sampling |= {
        "--device": device_name(device),
        "--dtype": str(runtime.choose_dtype(settings.dtype, device)),
        "face optimisation": isinstance(run, FaceOptimizationSettings),
        "the size": [run.width, run.height],
        "the photo on its canvas": describe_file(photo)["sha256"],
        "the skeletons": poses_digest,
        "the face embedding": hashlib.sha256(embedding.tobytes()).hexdigest(),
        "the weights": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in weights},
        "the libraries": {name: library_versions([name]).get(name) for name in ("torch", "diffusers", "transformers")},
    }
    return sampling, decoding, settings.affecting(FILES)


def _all_there(output: Path, names: list[str]) -> bool:
    return bool(names) and all((output / name).exists() for name in names)


def _remove_stale(output: Path, names: set[str]) -> None:
    """Remove what an earlier run wrote beside its clip, and this one did not."""
    for name in names & {"animated_images.gif", FRAMES_FOLDER, CSIM_PLOT, SIDE_BY_SIDE}:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sample_and_decode(
    settings: ClipSettings,
    run: InferenceSettings,
    inputs: Inputs,
    state: ClipState,
    models: Callable,
    device: torch.device,
    report: RunReport,
) -> dict:
    """Fill the state with all frames, and return what of it was there already: denoising steps and frames."""
    count = len(inputs.poses)
    done = state.decoded(settings.decode_chunk_size)
    if done >= count or (done and state.decoded(1) >= count):
        logger.info("all %d frames of an unfinished run are there", count)
        return {"step": run.num_inference_steps, "frames": count}
    with report.stage("load"):
        pipeline = models(run, device, report)
    first = done
    chunks = render(run, inputs, pipeline, report, state.denoising, first)
    with report.stage("decode"):
        for frames in chunks:
            state.keep_frames(done, frames)
            done += len(frames)
    return {"step": state.resumed_from or 0, "frames": first}
