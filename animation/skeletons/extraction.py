"""One extraction from checked inputs to skeleton images: find people → choose and align → draw → write."""

import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from animation.cli import listed
from animation.media.images import counted
from animation.media.writing import PARTIAL_FOLDER, publish_frames, write_png
from animation.skeletons.estimation import UNFINISHED_FILE, record
from animation.skeletons.preview import write_preview
from animation.skeletons.settings import SkeletonChoices, SkeletonInputs, SkeletonSettings
from DWPose.alignment import FAR_FROM_PHOTO
from DWPose.arrangement import Arrangement, arrange
from DWPose.drawing import SHORT_SIDE, draw
from DWPose.recording import KEYPOINTS_FILE, Drawn, Recording

logger = logging.getLogger(__name__)


def extract(settings: SkeletonSettings, inputs: SkeletonInputs) -> Arrangement:
    """Run the settings on the inputs and write skeletons and key points to `settings.poses_folder_path`.

    Raises:
        InputError: an input turns out to be damaged, or nobody is in it.
    """
    recording = record(settings, inputs)
    choices = arrangement_choices(settings)
    arrangement = arrange(recording, size=inputs.size, **choices)
    recording.drawn = arrangement.drawn
    folder = Path(settings.poses_folder_path)
    report(arrangement, recording)
    write_skeletons(folder, recording, settings.confidence, settings.canvas)
    if settings.preview is not None:
        in_place = arrange(recording, **(choices | {"alignment": "none"})).drawn
        write_preview(
            Path(settings.preview),
            recording,
            in_place,
            inputs.photo,
            inputs.driver,
            figures(arrangement),
            settings.confidence,
            settings.canvas,
        )
    logger.info(
        "%s of %d×%d pixels and %s written to %s",
        counted(arrangement.drawn.num_frames, "skeleton"),
        *arrangement.drawn.size,
        KEYPOINTS_FILE,
        folder,
    )
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
    partial = folder / PARTIAL_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        drawings = draw_all(
            recording.drawn, confidence, lambda k, image: write_png(partial / f"frame_{k}.png", image), canvas
        )
        for _ in tqdm(drawings, total=recording.drawn.num_frames, desc="drawing", unit="frame"):
            pass
        recording.save(folder / KEYPOINTS_FILE)
        publish_frames(partial, folder, recording.drawn.num_frames)
        (folder / UNFINISHED_FILE).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def draw_all(drawn: Drawn, confidence: float, then=lambda k, image: image, canvas: int | None = None) -> Iterator:
    """Draw every frame, several at once, and yield `then(frame number, image)` in their order."""
    ends = np.searchsorted(drawn.frames, np.arange(drawn.num_frames), "right")
    starts = np.searchsorted(drawn.frames, np.arange(drawn.num_frames))

    def work(k: int):
        """One frame."""
        people = slice(starts[k], ends[k])
        return then(
            k, draw(drawn.keypoints[people], drawn.scores[people], *drawn.size, confidence, canvas or SHORT_SIDE)
        )

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting: deque = deque()
        for k in range(drawn.num_frames):
            waiting.append(pool.submit(work, k))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
    logger.info("%s", figures(arrangement))
    absent = np.flatnonzero(arrangement.missing)
    if len(absent):
        logger.warning(
            "the person was not found in %d of %d frames: %s", len(absent), len(arrangement.missing), listed(absent)
        )
    odd = np.flatnonzero(arrangement.outliers)
    if len(odd):
        logger.info(
            "%d joints jump out of their motion and are filled (--outliers keep leaves them), in %d frames: %s",
            arrangement.outliers.sum(),
            len(odd),
            listed(odd),
        )
    distances = arrangement.distances
    if distances is None or not np.isfinite(distances).any() or not distances[0] > FAR_FROM_PHOTO:
        return
    nearest = int(np.nanargmin(distances))
    remedy = "take a photo in a pose like the driver's first"
    if distances[nearest] < FAR_FROM_PHOTO:
        seconds = nearest / recording.fps
        remedy += f", or start {seconds:.2f} s later, at frame {nearest}, which is {distances[nearest]:.2f} away"
    logger.warning(
        "the first pose is %.2f of a body height from the photo's, which often costs the face: %s", distances[0], remedy
    )
