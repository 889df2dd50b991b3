"""The networks over a photo and a video: raw key points, kept while they grow so that an interrupt loses little."""

import contextlib
import functools
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
from animation.networks import ANEW, Networks
from animation.skeletons.settings import DriverFrames, SkeletonInputs, SkeletonSettings
from DWPose.arrangement import photo_person
from DWPose.recording import KEYPOINTS_FILE, Recording, load_recording
from DWPose.wholebody import Wholebody

logger = logging.getLogger(__name__)

UNFINISHED_FILE = ".keypoints.unfinished.npz"
SECONDS_BETWEEN_SAVES = 10


def record(settings: SkeletonSettings, inputs: SkeletonInputs, networks: Networks = ANEW) -> Recording:
    """Raw key points of the photo and every frame of the driver.

    Where the output folder, or `settings.keypoints`, has those of the same photo, driver and networks, they are taken
    from there; an interrupted run is gone on with.

    Raises:
        InputError: a network, or a frame of the driver, is damaged; nobody is in a photo to align to.
    """

    @functools.cache
    def wholebody() -> Wholebody:
        return networks.open(Wholebody, settings.detector_path, settings.pose_path, settings.device)

    done, recording = True, inputs.keypoints
    if recording is None:
        done, recording = _begin(settings, inputs.driver)
    if inputs.photo is not None:
        photo = describe_file(Path(settings.ref_image_path))
        if recording.photo is None or not recording.belongs_to(photo):
            recording.give_to(photo, None)
            recording.photo = wholebody().estimate(np.asarray(inputs.photo))
            recording.photo_size = inputs.photo.size
    if settings.alignment != "none":
        photo_person(recording, settings.person == "all", settings.confidence)  # before minutes of work
    if not done:
        _record_driver(recording, inputs.driver, wholebody(), Path(settings.poses_folder_path) / UNFINISHED_FILE)
    return recording


def _begin(settings: SkeletonSettings, driver: DriverFrames) -> tuple[bool, Recording]:
    """Whether all of the driver's frames are done, and a recording to go on with."""
    sources = {
        "detector": describe_file(Path(settings.detector_path)),
        "pose": describe_file(Path(settings.pose_path)),
        "driver": driver.describe(),
        "widened": settings.widen_boxes and settings.person == "track",
    }
    for name, done in ((KEYPOINTS_FILE, True), (UNFINISHED_FILE, False)):
        path = Path(settings.poses_folder_path) / name
        with contextlib.suppress(InputError):
            earlier = load_recording(path)
            if {key: earlier.sources.get(key) for key in sources} == sources:
                frames = counted(len(earlier.video), "frame")
                logger.info(f"{path}: {frames} by these networks of this driver taken from there")
                return done, earlier
    return False, Recording(None, None, [], driver.size, driver.fps, sources)


def _record_driver(recording: Recording, driver: DriverFrames, wholebody: Wholebody, unfinished: Path) -> None:
    """Reading, detector and estimator at work at once, each in its thread, on the frames that are still to do."""
    done, widened = len(recording.video), recording.sources["widened"]
    frames = itertools.islice(read_ahead(driver), done, None)
    detected = read_ahead((frame, wholebody.detector(frame)) for frame in frames)
    progress = tqdm(total=driver.estimated_length, initial=done, desc="finding people", unit="frame")
    saved = time.monotonic()
    try:
        with progress, contextlib.closing(detected):
            for frame, boxes in detected:
                scale = np.divide(recording.video_size, frame.shape[1::-1])  # where frames are of several sizes
                before = recording.video[-1].scaled(1 / scale) if widened and recording.video else None
                recording.video.append(wholebody.estimate(frame, boxes, before).scaled(scale))
                progress.update()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    recording.save(unfinished)
                    saved = time.monotonic()
    except InputError:
        unfinished.unlink(missing_ok=True)
        raise
    except BaseException:
        if recording.video:
            recording.save(unfinished)
            kept = counted(len(recording.video), "frame")
            logger.info(f"{kept} kept in {unfinished}: the same command goes on from there")
        raise
