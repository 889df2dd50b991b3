"""A clip's decoded frames to the files that are looked at, and the figures about them."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animation.clip.colours import matcher
from animation.clip.figures import Likeness, jump, seams, window_borders
from animation.clip.settings import PHOTO_FILE, ClipInputs, ClipSettings
from animation.clip.state import ClipState
from animation.errors import InputError
from animation.evaluation.contact_sheet import MOMENTS
from animation.face.detection import FaceFinder
from animation.files import write_whole
from animation.media.images import load_photo
from animation.media.panels import draw_contact_sheet, plot_csim, write_side_by_side
from animation.media.sound import Sound
from animation.media.writing import AnimationWriter
from animation.report import RunReport
from animation.settings import Inputs
from animation.windows import window_indices

logger = logging.getLogger(__name__)

CONTACT_SHEET, CSIM_PLOT, SIDE_BY_SIDE = "contact_sheet.png", "csim.png", "side_by_side.mp4"


def write_results(
    settings: ClipSettings,
    inputs: ClipInputs,
    run_inputs: Inputs,
    state: ClipState,
    sound: Sound | None,
    embedding: np.ndarray,
    channel_order: str,
    device: torch.device,
    report: RunReport,
) -> tuple[list[str], dict]:
    """Write the MP4 and what else is wanted; each file is whole or not there.

    Args:
        run_inputs: of the run, with the skeletons.
        state: with all frames decoded.
        embedding: of the photo's face; zeros where there is none.

    Returns:
        The names of what was written, relative to the output folder, and facts for run.json.
    """
    total = len(run_inputs.poses)
    first = 1 if settings.anchor == "photo" else 0  # the photo's own skeleton is no part of the clip
    likeness = _likeness(settings, embedding, channel_order, device)
    finish = _finisher(settings, inputs, state, first, total)
    jumps, csim, before = [], [], None
    writer = AnimationWriter(
        settings.output,
        total - first,
        inputs.driver.fps,
        png=not settings.no_png,
        gif=settings.gif,
        sound=sound,
    )
    with report.stage("write"), writer:
        for number in tqdm(range(first, total), desc="writing", unit="frame"):
            frame = finish(number)
            writer.write(frame[None])
            if before is not None:
                jumps.append(jump(before, frame))
            before = frame
            if likeness is not None:
                csim.append(likeness(frame))
    outputs = writer.outputs
    with report.stage("show"):
        outputs += _show(settings, inputs, run_inputs, finish, first, sound, csim)
    windows = window_indices(total, settings.tile_size, settings.frames_overlap)
    facts = {
        "num_frames": total - first,
        "sound": None if sound is None else round(sound.seconds, 3),
        "seams": seams(jumps, [border - first for border in window_borders(windows)]),
    }
    if likeness is not None:
        found = [value for value in csim if value is not None]
        facts["csim"] = {"mean": round(float(np.mean(found)), 4) if found else None, "frames": csim}
    return outputs, facts


def _show(
    settings: ClipSettings,
    inputs: ClipInputs,
    run_inputs: Inputs,
    finish: Callable[[int], np.ndarray],
    first: int,
    sound: Sound | None,
    csim: Sequence[float | None],
) -> list[str]:
    """Write what is there to look at, beside the clip itself, and return the names."""
    output, driver = Path(settings.output), inputs.driver
    total = len(run_inputs.poses)
    names = [CONTACT_SHEET]
    moments = [int(i) for i in np.linspace(0, total - first - 1, min(MOMENTS, total - first)).round()]
    shown = None
    if driver.kind in ("video", "frames"):
        wanted = set(moments)
        shown = [
            Image.fromarray(frame)
            for number, frame in enumerate(_driver_frames(inputs, total - first))
            if number in wanted
        ]
    sheet = draw_contact_sheet(
        output.resolve().name,
        inputs.photo,
        shown,
        [run_inputs.poses[first + moment] for moment in moments],
        [Image.fromarray(finish(first + moment)) for moment in moments],
    )
    write_whole(output / CONTACT_SHEET, sheet.save)
    if csim:
        write_whole(output / CSIM_PLOT, plot_csim(csim).save)
        names.append(CSIM_PLOT)
    if settings.side_by_side:
        write_side_by_side(
            output / SIDE_BY_SIDE,
            inputs.photo,
            _driver_frames(inputs, total - first) if shown is not None else None,
            (run_inputs.poses[number] for number in range(first, total)),
            (finish(number) for number in tqdm(range(first, total), desc="side by side", unit="frame")),
            driver.fps,
            sound,
        )
        names.append(SIDE_BY_SIDE)
    return names


def _driver_frames(inputs: ClipInputs, count: int) -> Iterator[np.ndarray]:
    """The driver's frames as the clip shows them, its part repeated: `count` of them."""
    yield from itertools.islice(itertools.chain.from_iterable(itertools.repeat(inputs.driver.frames)), count)


def _finisher(
    settings: ClipSettings, inputs: ClipInputs, state: ClipState, first: int, total: int
) -> Callable[[int], np.ndarray]:
    """A function of a decoded frame's number that gives the finished frame, its padding cut off."""
    framing = inputs.framing

    def cropped(number: int) -> np.ndarray:
        """Without padding."""
        return framing.crop(state.frame(number)[None])[0]

    if not settings.color_match:
        return cropped

    def all_cropped() -> Iterator[np.ndarray]:
        """Frame after frame."""
        for number in tqdm(range(first, total), desc="colours", unit="frame"):
            yield cropped(number)

    photo = np.asarray(load_photo(settings.intermediate / PHOTO_FILE))
    match = matcher(framing.crop(photo[None])[0], all_cropped(), settings.tile_size)
    return lambda number: match(number - first, cropped(number))


def _likeness(
    settings: ClipSettings, embedding: np.ndarray, channel_order: str, device: torch.device
) -> Likeness | None:
    """What compares faces, where there are networks for it and a face in the photo."""
    if settings.no_figures or not embedding.any():
        return None
    try:
        dwpose = Path(settings.dwpose_models)
        return Likeness(FaceFinder(settings.face_models, dwpose, device.type), embedding, channel_order)
    except InputError as error:
        logger.warning("the faces are not compared: %s", error)
        return None
