"""One extraction from checked inputs to skeleton images: find people → choose and align → draw → write."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from animation.cli import listed
from animation.media.images import counted
from animation.media.writing import PARTIAL_FOLDER, publish_frames, write_png
from animation.skeletons.estimation import UNFINISHED_FILE, record
from animation.skeletons.preview import write_preview
from animation.skeletons.settings import SkeletonChoices, SkeletonInputs, SkeletonSettings
from DWPose.alignment import FAR_FROM_PHOTO
from DWPose.arrangement import Arrangement, arrange
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.recording import KEYPOINTS_FILE, Recording

logger = logging.getLogger(__name__)


def extract(settings: SkeletonSettings, inputs: SkeletonInputs) -> Arrangement:
    """Run the settings on the inputs and write skeletons and key points to `settings.poses_folder_path`.

    Raises:
        InputError: an input turns out to be damaged, or nobody is in it.
    """
    recording = record(settings, inputs)
    choices = arrangement_choices(settings)
    arrangement = arrange(recording, size=inputs.size, **choices)
    recording.drawn = drawn = arrangement.drawn
    report(arrangement, recording)
    write_skeletons(Path(settings.poses_folder_path), recording, settings.confidence, settings.canvas)
    if settings.preview is not None:
        in_place = arrange(recording, **(choices | {"alignment": "none"})).drawn
        write_preview(settings, inputs, recording, in_place, figures(arrangement))
    what = f"{counted(drawn.num_frames, 'skeleton')} of {drawn.size[0]}×{drawn.size[1]} pixels"
    logger.info(f"{what} and {KEYPOINTS_FILE} written to {settings.poses_folder_path}")
    return arrangement


def arrangement_choices(settings: SkeletonChoices) -> dict:
    """What `arrange` is told of the settings, by name."""
    names = ("alignment", "person", "missing", "smooth", "outliers", "confidence")
    return {name: getattr(settings, name) for name in names}


def write_skeletons(folder: Path, recording: Recording, confidence: float, canvas: int | None = None) -> None:
    """Draw a recording's arranged people as frame_0.png …, and keep its key points beside them, all or nothing.

    Args:
        canvas: the short side of what is drawn on, pixels; None: DWPose's own.
    """
    drawn, partial = recording.drawn, folder / PARTIAL_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    def write(frame: int) -> None:
        image = draw(*drawn.people(frame), *drawn.size, confidence, canvas or SHORT_SIDE)
        write_png(partial / f"frame_{frame}.png", image)

    try:
        thread_map(write, range(drawn.num_frames), max_workers=os.cpu_count(), desc="drawing", unit="frame")
        recording.save(folder / KEYPOINTS_FILE)
        publish_frames(partial, folder, drawn.num_frames)
        (folder / UNFINISHED_FILE).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def figures(arrangement: Arrangement) -> str:
    """What an extraction found, in one line."""
    share = 1 - arrangement.missing.mean()
    before, after = arrangement.jitter
    line = f"mean confidence {arrangement.mean_confidence:.2f}, person in {share:.1%} of frames, jitter {before:.4f}"
    if after != before:
        line += f", smoothed {after:.4f}"
    if arrangement.distances is not None and np.isfinite(arrangement.distances[0]):
        line += f", first pose {arrangement.distances[0]:.2f} of a body height from the photo's"
    return line


def report(arrangement: Arrangement, recording: Recording) -> None:
    """Log the figures, the frames in which nobody was found, and what is likely to go wrong with the face."""
    logger.info(figures(arrangement))
    parts = arrangement.missing, arrangement.outliers, arrangement.cut
    absent, odd, cut = (np.flatnonzero(part).tolist() for part in parts)
    if absent:
        logger.warning(
            f"the person was not found in {len(absent)} of {len(arrangement.missing)} frames: {listed(absent)}"
        )
    if odd:
        logger.info(
            f"{arrangement.outliers.sum()} joints jump out of their motion and are filled (--outliers keep leaves "
            f"them), in {len(odd)} frames: {listed(odd)}"
        )
    if cut:
        logger.warning(
            f"the person is partly outside of the picture in {len(cut)} of {len(arrangement.cut)} frames: "
            f"{listed(cut)}; take a photo with more room around the person"
        )
    distances = arrangement.distances
    if distances is None or not distances[0] > FAR_FROM_PHOTO:
        return
    nearest = int(np.nanargmin(distances))
    remedy = "take a photo in a pose like the driver's first"
    if distances[nearest] < FAR_FROM_PHOTO:
        seconds = nearest / recording.fps
        remedy += f", or start {seconds:.2f} s later, at frame {nearest}, which is {distances[nearest]:.2f} away"
    logger.warning(
        f"the first pose is {distances[0]:.2f} of a body height from the photo's, which often costs the face: {remedy}"
    )
