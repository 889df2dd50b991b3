"""The networks over a photo and a video: raw key points, kept while they grow so that an interrupt loses little."""

import contextlib
import itertools
import logging
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from animation.errors import InputError
from animation.files import describe_file
from animation.media.images import counted
from animation.media.video import read_ahead
from animation.skeletons.settings import SkeletonInputs, SkeletonSettings
from DWPose.arrangement import photo_person
from DWPose.recording import KEYPOINTS_FILE, Recording, load_recording
from DWPose.wholebody import Wholebody

logger = logging.getLogger(__name__)

UNFINISHED_FILE = ".keypoints.unfinished.npz"
SECONDS_BETWEEN_SAVES = 10


def record(settings: SkeletonSettings, inputs: SkeletonInputs) -> Recording:
    """Raw key points of the photo and every frame of the driver.

    Where the output folder, or `settings.keypoints`, has those of the same photo, driver and networks, they are taken
    from there; an interrupted run is gone on with.

    Raises:
        InputError: a network, or a frame of the driver, is damaged; nobody is in a photo to align to.
    """
    networks = _Networks(settings)
    done, recording = True, inputs.keypoints
    if recording is None:
        done, recording = _begin(settings, inputs, networks)
    if inputs.photo is not None:
        photo = describe_file(Path(settings.ref_image_path))
        if recording.photo is None or recording.sources.get("photo") != photo:
            recording.photo = networks().estimate(np.asarray(inputs.photo))
            recording.photo_size = inputs.photo.size
            recording.sources["photo"] = photo
    if settings.alignment != "none":
        photo_person(recording, settings.person == "all", settings.confidence)  # before minutes of work
    if not done:
        _record_driver(recording, inputs.driver, networks(), Path(settings.poses_folder_path) / UNFINISHED_FILE)
    return recording


class _Networks:
    """The two networks, opened when they are first needed."""

    def __init__(self, settings: SkeletonSettings):
        self.paths = settings.detector_path, settings.pose_path
        self.device = settings.device
        self._wholebody: Wholebody | None = None

    def __call__(self) -> Wholebody:
        if self._wholebody is None:
            self._wholebody = Wholebody(*self.paths, self.device)
        return self._wholebody

    def describe(self) -> dict:
        """Sizes and hashes of the two files."""
        return {name: describe_file(Path(path)) for name, path in zip(("detector", "pose"), self.paths, strict=True)}


def _begin(settings: SkeletonSettings, inputs: SkeletonInputs, networks: _Networks) -> tuple[bool, Recording]:
    """A recording to go on with, and whether all of its driver's frames are done."""
    folder = Path(settings.poses_folder_path)
    widened = settings.widen_boxes and settings.person == "track"
    sources = networks.describe() | {"driver": inputs.driver.describe(), "widened": widened}
    for name, done in ((KEYPOINTS_FILE, True), (UNFINISHED_FILE, False)):
        try:
            earlier = load_recording(folder / name)
        except InputError:
            continue
        if {key: earlier.sources.get(key) for key in sources} == sources:
            logger.info(
                "%s: %s by these networks of this driver taken from there",
                folder / name,
                counted(len(earlier.video), "frame"),
            )
            return done, earlier
    return False, Recording(None, None, [], inputs.driver.size, inputs.driver.fps, sources)


def _record_driver(recording: Recording, driver, wholebody: Wholebody, unfinished: Path) -> None:
    """Reading, detector and estimator at work at once, each in its thread, on the frames that are still to do."""
    done, widened = len(recording.video), recording.sources["widened"]
    frames = itertools.islice(read_ahead(driver), done, None)
    detecting = read_ahead((frame, wholebody.detector(frame)) for frame in frames)
    progress = tqdm(total=driver.estimated_length, initial=done, desc="finding people", unit="frame")
    saved = time.monotonic()
    try:
        with progress, contextlib.closing(detecting) as detected:
            for frame, boxes in detected:
                scale = np.divide(recording.video_size, frame.shape[1::-1])  # where frames are of several sizes
                before = recording.video[-1].scaled(1 / scale) if widened and recording.video else None
                recording.video.append(wholebody.estimate(frame, boxes, before).scaled(scale))
                progress.update()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    _save(recording, unfinished)
                    saved = time.monotonic()
    except InputError:
        unfinished.unlink(missing_ok=True)
        raise
    except BaseException:
        if recording.video:
            _save(recording, unfinished)
            logger.info(
                "%s kept in %s: the same command goes on from there",
                counted(len(recording.video), "frame"),
                unfinished,
            )
        raise


def _save(recording: Recording, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    recording.save(path)
