"""One clip from checked inputs to written files: skeletons → face → sampling → decoding → writing."""

import hashlib
import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from animation import runtime
from animation.clip.request import LIBRARIES, RUN_FILE, is_whole, request_key
from animation.clip.results import CSIM_PLOT, SIDE_BY_SIDE, Results
from animation.clip.settings import EMBEDDING_FILE, PHOTO_FILE, SKELETONS_FOLDER, ClipInputs, ClipSettings
from animation.clip.skeletons import digest, make_skeletons
from animation.clip.state import ClipState
from animation.face.detection import find_face_models
from animation.face.settings import FaceOptimizationSettings
from animation.files import describe_file, locked, read_json, write_json, write_whole
from animation.flags import FILES, FRAMES, LATENTS
from animation.media.framing import Framing
from animation.media.sound import load_sound
from animation.media.writing import FRAMES_FOLDER, write_png
from animation.networks import ANEW, Networks
from animation.parallel import ALONE, Processes
from animation.pipeline import AnimationPipeline
from animation.report import RunReport, device_name, library_versions
from animation.run import choose_channel_order, embed_photo, explain_out_of_memory, load_pipeline, render, weights_files
from animation.settings import InferenceSettings
from DWPose.recording import KEYPOINTS_FILE

logger = logging.getLogger(__name__)

REMOVABLE = {"animated_images.gif", FRAMES_FOLDER, CSIM_PLOT, SIDE_BY_SIDE}  # where an earlier run wrote it alone

LOADED = "dtype", "offload", "vae_device", "attention", "quantize", "compile"  # levers that a loaded pipeline has


class Models:
    """The pipeline that was loaded last, for clips that want the same one again.

    Args:
        processes: share each clip's work.
        networks: the others, of which those that stay open are in memory beside the pipeline.
    """

    def __init__(self, processes: Processes = ALONE, networks: Networks = ANEW) -> None:
        self.processes, self.networks = processes, networks
        self._made_of: tuple | None = None
        self._pipeline: AnimationPipeline | None = None

    def __call__(self, settings: InferenceSettings, device: torch.device, report: RunReport) -> AnimationPipeline:
        """The pipeline that these settings name, loaded unless it is at hand."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in weights_files(settings, device)]
        levers = [getattr(settings, name) for name in LOADED]
        made_of = (tuple(files), levers, str(device))
        if self._pipeline is None or self._made_of != made_of:
            self._pipeline = self._made_of = None  # before the next one is loaded
            self._pipeline, self._made_of = load_pipeline(settings, device, report, self.processes), made_of
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
        The facts in run.json; of several processes the first one writes and returns them, and the others none.

    Raises:
        InputError: a checkpoint or a device does not do, another run is at work in the folder, or an input is damaged
            further on.
        RunError: memory did not suffice, or NaN appeared.
        OSError: a file cannot be written; what was kept stays, and the same command goes on from there.
    """
    clip = _Clip(settings, inputs, models)
    with locked(clip.output) if models.processes.is_first else nullcontext():
        return clip.make()


class _Clip:
    """A clip in the making."""

    def __init__(self, settings: ClipSettings, inputs: ClipInputs, models: Models):
        self.settings, self.inputs, self.models, self.processes = settings, inputs, models, models.processes
        self.output, self.photo = Path(settings.output), settings.intermediate / PHOTO_FILE
        self.framing = inputs.framing
        self.device = runtime.join(self.processes, settings.device)
        self.run = self._inference_settings()
        self.weights = weights_files(self.run, self.device)  # before minutes of work
        self.channel_order = choose_channel_order(self.run)
        self.report = RunReport(asdict(settings), self.device, self.processes.is_first)

    def make(self) -> dict:
        """Do what is left to do; return the facts in run.json."""
        self.earlier = read_json(self.output / RUN_FILE)
        with explain_out_of_memory(self.run, self.device):
            embedding, self.framing = self.processes.first(self._prepare)
            self._choose_run()
            state = self.processes.first(lambda: self._open_state(embedding))
            if state is None:
                logger.info("%s: the clip is there already, made of the same; --again makes it anew", self.output)
                return self.earlier
            resumed = self._sample_and_decode(state)
        return self._write(state, embedding, resumed) if self.processes.is_first else {}

    def _inference_settings(self, face_boxes: bool = False) -> InferenceSettings:
        run = self.settings.inference_settings(self.framing, self.inputs.driver.fps, face_boxes)
        return replace(run, dtype=runtime.fast_dtype(run.dtype, self.device))

    def _prepare(self) -> tuple[np.ndarray, Framing]:
        """Make the intermediate files and the sound; return the face's embedding, and how the photo lies."""
        settings, driver, framing = self.settings, self.inputs.driver, self.framing
        with self.report.stage("face_embedding"):
            embedding, face = self._embed()
        if face is not None:
            framing = framing.keeping(face)
        photo_pixels = np.asarray(framing.apply(self.inputs.photo))
        write_whole(self.photo, lambda path: write_png(path, photo_pixels))
        with self.report.stage("skeletons"):
            self.poses, seconds = make_skeletons(settings, self.photo, framing, driver, self.models.networks)
            self.sound = None
            if driver.kind == "video" and not settings.no_audio:
                self.sound = load_sound(driver.path, driver.start, seconds, settings.loop)
        return embedding, framing

    def _open_state(self, embedding: np.ndarray) -> ClipState | None:
        """What is to be filled, with what an unfinished run left; None where the clip is there already."""
        sampling, decoding, writing = self._dependencies(digest(self.poses), embedding)
        self.key = hashlib.sha256(json.dumps([sampling, decoding, writing], default=str).encode()).hexdigest()
        if not self.settings.again and self.earlier.get("key") == self.key and is_whole(self.settings, self.earlier):
            return None
        return ClipState(self.output, sampling, decoding)

    def _write(self, state: ClipState, embedding: np.ndarray, resumed: dict) -> dict:
        """Write the results and run.json, whose facts are returned, and remove what they take the place of."""
        settings, driver, report = self.settings, self.inputs.driver, self.report
        results = Results(settings, self.inputs, self.run_inputs, state, self.sound, self.models.networks)
        facts = results.write(self.channel_order, self.device, report)
        report.add_files([settings.photo, *([driver.path] if driver.path.is_file() else []), *self.poses.paths])
        report.write(
            self.output / RUN_FILE,
            key=self.key,
            request=request_key(settings, self.inputs),
            driver={"kind": driver.kind, "path": str(driver.path), "fps": driver.fps},
            size=[self.framing.width, self.framing.height],
            face_channel_order=self.channel_order,
            face_found=bool(embedding.any()),
            resumed_from=resumed,
            **facts,
        )
        state.remove()
        for path in (
            self.output / name for name in (set(self.earlier.get("outputs", [])) - set(facts["outputs"])) & REMOVABLE
        ):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        logger.info("written to %s: %s and %s", self.output, ", ".join(facts["outputs"]), RUN_FILE)
        return read_json(self.output / RUN_FILE)

    def _embed(self) -> tuple[np.ndarray, list[float] | None]:
        """The face's embedding, given, kept or made anew; and its box in the photo, where one was found."""
        settings, path = self.settings, self.settings.intermediate / EMBEDDING_FILE
        made_file, made_of = path.with_suffix(".json"), None
        embedding, box = self.inputs.face_embedding, None
        if embedding is None:
            networks = find_face_models(settings.face_models).glob("*.onnx")
            made_of = {
                "photo": describe_file(Path(settings.photo)),
                "face_photo": settings.face_photo and describe_file(Path(settings.face_photo)),
                "networks": [describe_file(network) for network in sorted(networks)],
                "channel_order": self.channel_order,
                "face": settings.face,
                "dwpose": str(settings.dwpose_models),
            }
            made = read_json(made_file)
            if made.get("of") == made_of and path.is_file():
                logger.info("%s: the face embedding of an earlier run is taken", path)
                return np.load(path, allow_pickle=False), made.get("box")
            embedding, face = embed_photo(self.inputs, self.run, self.channel_order, self.device, self.models.networks)
            box = None if face is None else face.box.tolist()
        made_file.unlink(missing_ok=True)
        write_whole(path, lambda partial: np.save(partial, embedding))
        if made_of is not None:
            write_json(made_file, {"box": box, "of": made_of})
        return embedding, box

    def _choose_run(self) -> None:
        """Take the run on the intermediate files, which optimises faces where that is wanted and it is known where."""
        keypoints = self.settings.intermediate / SKELETONS_FOLDER / KEYPOINTS_FILE
        if self.settings.face_optimization and not keypoints.is_file():
            logger.warning(
                "--face_optimization: where the faces are is unknown, as %s has no %s; the clip is made WITHOUT it",
                self.inputs.driver.path,
                KEYPOINTS_FILE,
            )
        self.run = self._inference_settings(face_boxes=keypoints.is_file())
        self.run_inputs = self.run.read_inputs(self.models.networks)

    def _dependencies(self, poses: str, embedding: np.ndarray) -> tuple[dict, dict, dict]:
        """What latents, frames and files depend on, by names that a user knows."""
        settings, optimises = self.settings, isinstance(self.run, FaceOptimizationSettings)
        sampling = {f"--{name}": value for name, value in settings.affecting(LATENTS).items()}
        decoding = {f"--{name}": value for name, value in settings.affecting(FRAMES).items()}
        sampling |= decoding if optimises else {}  # it decodes on the way
        sampling |= {
            "--device": device_name(torch.device(self.device.type)),
            "--dtype": str(runtime.choose_dtype(self.run.dtype, self.device)),
            "face optimisation": optimises,
            "the size": [self.run.width, self.run.height],
            "the photo on its canvas": describe_file(self.photo)["sha256"],
            "the skeletons": poses,
            "the face embedding": hashlib.sha256(embedding.tobytes()).hexdigest(),
            "--face_photo": settings.face_photo and describe_file(Path(settings.face_photo))["sha256"],
            "the weights": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in self.weights},
            "the libraries": library_versions(LIBRARIES),
        }
        return sampling, decoding, settings.affecting(FILES) | {"driver": self.inputs.driver.describe()}

    def _sample_and_decode(self, state: ClipState) -> dict:
        """Fill the state with all frames, and return what of it was there already: denoising steps and frames."""
        count = len(self.run_inputs.poses)
        done = self.processes.first(state.decoded)
        if done >= count:
            logger.info("all %d frames of an unfinished run are there", count)
            return {"step": self.run.num_inference_steps, "frames": count}
        with self.report.stage("load"):
            pipeline = self.models(self.run, self.device, self.report)
        done = first = done - done % self.settings.decode_chunk_size
        chunks = render(self.run, self.run_inputs, pipeline, self.report, state.denoising, first, self.models.networks)
        with self.report.stage("decode"):
            for frames in chunks:
                state.keep_frames(done, frames)
                done += len(frames)
        return {"step": state.resumed_from, "frames": first}
