"""A folder of videos becomes a training data set: frames, skeletons, face masks and the lists that train.py reads.

Each clip is a job of four stages, each for one of several processes; what was done is not done again.
"""

import functools
import itertools
import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from animation.cluster import Cluster, Stage, do_all, in_turn
from animation.errors import InputError
from animation.face.detection import find_face_models
from animation.face.masks import NO_FACE, SHAPES, FaceMaskSettings, extract_masks
from animation.files import locked, read_json, write_json, write_text
from animation.flags import flag
from animation.media.images import list_frames
from animation.media.video import LARGEST_FPS, VideoFrames
from animation.media.writing import check_writable, write_png
from animation.networks import Networks
from animation.skeletons.settings import SkeletonChoices, SkeletonSettings
from animation.training.clips import RELEASED_BUCKETS
from DWPose.recording import KEYPOINTS_FILE
from DWPose.sessions import DEVICES, find_model

logger = logging.getLogger(__name__)

SOURCE_FILE = "source.json"  # in a clip's folder: which video it is made of
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif")


@dataclass(kw_only=True)
class PreparationSettings(Cluster):
    """A preparation's settings, named as the flags of `prepare_data.py`, whose help explains them."""

    root_path: str = flag(help="the data set; made where missing", metavar="DIR")
    videos: str | None = flag(None, "taken by name; left out, the root's clips with images/", metavar="DIR")
    name: str | None = flag(None, "the group; left out, rec or vec by each video's aspect ratio", metavar="{rec,vec}")
    start: int = flag(1, "number of the first clip", least=0)
    end: int | None = flag(None, "number of the last clip; left out, all")
    fps: float | None = flag(None, "take frames at this rate; left out, all of them", above=0, most=LARGEST_FPS)
    least_frames: int = flag(16, "shorter clips are left out", least=1)
    processes: int = flag(1, "clips at once, without --ray; each loads the networks", least=1)
    detector_path: str | None = flag(
        None, "the person detector, YOLOX; left out, the released one where it is, else the small one", metavar="FILE"
    )
    pose_path: str | None = flag(None, "the pose estimator, DWPose; left out, likewise", metavar="FILE")
    face_models: str | None = flag(None, "insightface's antelopev2; left out, likewise", metavar="DIR")
    device: str = flag("auto", "auto: CUDA where onnxruntime can", choices=DEVICES)
    person: str = flag("track", "whose skeleton, as in skeleton_extraction.py", metavar="{track,largest,N,all}")
    canvas: int | None = flag(None, "short side of skeletons, as in skeleton_extraction.py", metavar="PIXELS")
    shape: str = flag("box", "of the face masks", choices=SHAPES)
    no_face: str = flag("black", "the mask of a frame without a face", choices=tuple(NO_FACE))

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        super().check()
        if self.end is not None and self.end < self.start:
            raise InputError(f"--end {self.end} is below --start {self.start}; give the last clip's number")
        if self.name is not None and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise InputError(f"--name {self.name!r} is not the name of a folder in {self.root_path}; give rec or vec")
        SkeletonChoices(**self.shared(SkeletonChoices)).check()

    def read_inputs(self) -> "list[ClipJob]":
        """Check everything that can be checked without a network; return a job for each clip.

        Raises:
            InputError: a setting is out of range, there are no clips, a network is missing, or the output is not
                writable.
        """
        self.check()
        find_model(self.detector_path)
        find_model(self.pose_path)
        find_face_models(self.face_models)
        check_writable(Path(self.root_path))
        jobs = list(self._jobs())
        if not jobs:
            what = f"{'videos' if self.videos else 'clips'} numbered {self.start} to {self.end or 'the last'}"
            raise InputError(f"{self.videos or self.root_path}: no {what} there")
        return jobs

    def _jobs(self) -> "Iterator[ClipJob]":
        root = Path(self.root_path)
        if self.videos is None:  # frames are there already
            groups = (self.name,) if self.name else RELEASED_BUCKETS
            folders = [folder for group in groups for folder in sorted(root.glob(f"{group}/*/"))]
            yield from (ClipJob(self, None, folder) for folder in folders if self._wanted(folder.name))
            return
        source = Path(self.videos)
        if not source.is_dir():
            raise InputError(f"{source}: no such folder; give a folder of videos")
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        made = {read_json(record).get("video"): record.parent for record in root.glob(f"*/*/{SOURCE_FILE}")}
        holding = {path.parent for path in root.glob("*/*/[!.]*")}  # a run that ended early may leave a lock alone
        taken = {int(folder.name) for folder in holding if folder.name.isdecimal()}
        later = itertools.count(max([len(paths), *taken]) + 1)
        for number, path in enumerate(paths, start=1):
            folder = made.get(path.name)
            if folder is None:  # a video that came later must not take the place of another
                place = number if number not in taken else next(later)
                folder = root / (self.name or _group(path)) / f"{place:05d}"
            if self._wanted(folder.name):
                record = folder / SOURCE_FILE
                if record.is_file() and read_json(record) != self.source(path):
                    raise InputError(
                        f"{folder}: made of another {path.name}, or with another --fps; delete that folder to make it "
                        "again, or give another --root_path"
                    )
                yield ClipJob(self, path, folder)

    def source(self, video: Path) -> dict:
        """What the frames of a video's clip are made of, JSON values."""
        return {"video": video.name, "bytes": video.stat().st_size, "fps": self.fps}

    def _wanted(self, name: str) -> bool:
        if not name.isdecimal():
            return self.start <= 1 and self.end is None
        return self.start <= int(name) and (self.end is None or int(name) <= self.end)


def _group(video: Path) -> str:
    """The released group whose aspect ratio is nearest to a video's; the first for one that cannot be read."""
    try:
        width, height = VideoFrames(video).size
    except InputError:  # told when its turn comes
        return next(iter(RELEASED_BUCKETS))
    aspects = {group: size[0] / size[1] for group, size in RELEASED_BUCKETS.items()}
    return min(aspects, key=lambda group: abs(math.log(width / height / aspects[group])))


def is_complete(folder: Path) -> bool:
    """Whether a clip has a skeleton and a mask for every frame."""
    try:
        return len({len(list_frames(folder / name)) for name in ("images", "poses", "faces")}) == 1
    except InputError:
        return False


@dataclass
class ClipJob:
    """One clip to prepare: a video, or None where its frames are there, and its folder."""

    settings: PreparationSettings
    video: Path | None
    folder: Path

    @property
    def images(self) -> Path:
        """The folder of its frames."""
        return self.folder / "images"

    @property
    def poses(self) -> Path:
        """The folder of its skeletons."""
        return self.folder / "poses"

    def write_frames(self, networks: Networks) -> None:
        """Write a video's frames, upright, as images/frame_0.png …, all or nothing."""
        if not self.images.is_dir():
            if self.video is None:
                raise InputError("no images/ folder in it")
            self._decode(self.video)
        count, least = len(list_frames(self.images)), self.settings.least_frames
        if count < least:
            raise InputError(f"{count} frames, fewer than --least_frames {least}")

    def _decode(self, video: Path) -> None:
        partial, source = self.folder / ".images.partial", self.folder / SOURCE_FILE
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(source, self.settings.source(video))
        try:
            for i, frame in enumerate(VideoFrames(video, fps=self.settings.fps)):
                write_png(partial / f"frame_{i}.png", frame)
            partial.replace(self.images)
        except InputError:
            source.unlink()
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def find_people(self, networks: Networks) -> None:
        """Write the key points of all frames to the folder of the skeletons."""
        from animation.skeletons.estimation import record

        if self._is_drawn():
            return
        settings = self._skeletons(
            target_image_folder_path=str(self.images),
            detector_path=self.settings.detector_path,
            pose_path=self.settings.pose_path,
            device=self.settings.device,
        )
        recording = record(settings, settings.read_inputs(), networks)
        self.poses.mkdir(exist_ok=True)
        recording.save(self.poses / KEYPOINTS_FILE)

    def draw_skeletons(self, networks: Networks) -> None:
        """Draw the key points as poses/frame_0.png …, all or nothing."""
        from animation.skeletons.extraction import extract

        if not self._is_drawn():
            settings = self._skeletons(keypoints=str(self.poses / KEYPOINTS_FILE))
            extract(settings, settings.read_inputs())

    def _is_drawn(self) -> bool:
        return len(list(self.poses.glob("frame_*.png"))) == len(list_frames(self.images))

    def _skeletons(self, **sources: Any) -> SkeletonSettings:
        choices = self.settings.shared(SkeletonChoices) | {"alignment": "none"}
        return SkeletonSettings(poses_folder_path=str(self.poses), **sources, **choices)

    def write_masks(self, networks: Networks) -> None:
        """Write the faces of all frames as faces/frame_0.png …, one by one."""
        places = {"image_folder": str(self.images), "masks_folder": str(self.folder / "faces")}
        models = {
            "dwpose_models": str(Path(self.settings.pose_path).parent),
            "device": "cuda" if self.settings.device == "cuda" else "cpu",
        }
        masks = FaceMaskSettings(**self.settings.shared(FaceMaskSettings) | places | models)
        extract_masks(masks, *masks.read_inputs(), networks)


class Step:
    """Does one stage of clips, one after the other; `networks` are those that it opens."""

    def __init__(self, work: Callable[[ClipJob, Networks], None], networks: Networks):
        self.work, self.networks = work, networks

    def __call__(self, job: ClipJob) -> str | None:
        """Write what is missing of the stage's files; why the clip is of no use, or None."""
        try:
            with locked(job.folder):
                if not is_complete(job.folder):
                    self.work(job, self.networks)
        except InputError as error:  # of the clip, or another run is at work there
            return str(error)
        return None


def make_stages() -> list[Stage]:
    """What is done to a clip; in one process they share the networks."""
    networks = Networks(keep=True)
    return [
        Stage(functools.partial(Step, ClipJob.write_frames, networks), on_gpu=False),
        Stage(functools.partial(Step, ClipJob.find_people, networks)),
        Stage(functools.partial(Step, ClipJob.draw_skeletons, networks), on_gpu=False),
        Stage(functools.partial(Step, ClipJob.write_masks, networks)),
    ]


def prepare(settings: PreparationSettings, jobs: list[ClipJob]) -> None:
    """Prepare every clip, and list those that are complete in `video_rec_path.txt` and `video_vec_path.txt`.

    Args:
        jobs: what `settings.read_inputs()` returned.

    Raises:
        InputError: none of them could be prepared.
    """
    failed: dict[str, str] = {}
    for folder, reason in tqdm(_run(jobs, settings), total=len(jobs), desc="preparing", unit="clip"):
        if reason is not None:
            failed[folder] = reason
            logger.warning(f"{folder}: left out: {reason}")
    for group in sorted({job.folder.parent for job in jobs if job.folder.parent.is_dir()}):
        clips = [clip for clip in sorted(group.glob("*/")) if str(clip) not in failed and is_complete(clip)]
        path = group.parent / f"video_{group.name}_path.txt"
        write_text(path, "".join(f"{clip.resolve()}\n" for clip in clips))
        logger.info(f"{path}: {len(clips)} clips")
    logger.info(f"{len(jobs) - len(failed)} of {len(jobs)} clips are complete")
    if len(failed) == len(jobs):
        raise InputError(f"none of {len(jobs)} clips could be prepared; the reasons stand above")


def _run(jobs: list[ClipJob], settings: PreparationSettings) -> Iterator[tuple[str, str | None]]:
    """Each job's folder and result, as they end."""
    if settings.processes == 1 or settings.ray is not None:
        done = do_all(settings, make_stages(), jobs, lambda job, reason: reason)
        yield from ((str(jobs[number].folder), reason) for number, reason in done)
        return
    context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
    with ProcessPoolExecutor(min(settings.processes, len(jobs)), context, initializer=_quiet) as pool:
        running = {pool.submit(_prepare_one, job): str(job.folder) for job in jobs}
        try:
            yield from ((running[future], future.result()) for future in as_completed(running))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_one(job: ClipJob) -> str | None:
    return _work_of_this_process()(job)


@functools.cache
def _work_of_this_process() -> Callable[[ClipJob], str | None]:
    return in_turn(make_stages())


def _quiet() -> None:
    """A worker ends at an interrupt and shows nothing: bars of several processes would garble each other."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for the worker's life
