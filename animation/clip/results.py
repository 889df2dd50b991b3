"""A clip's decoded frames to the files that are looked at, and the figures about them."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animation.clip.colours import matcher
from animation.clip.figures import Likeness, jump, seams, window_borders
from animation.clip.settings import PHOTO_FILE, SKELETONS_FOLDER, ClipInputs, ClipSettings
from animation.clip.state import ClipState
from animation.errors import InputError
from animation.face.detection import FaceFinder
from animation.files import write_whole
from animation.media.images import load_photo
from animation.media.panels import Picture, SheetBlock, draw_contact_sheet, pick_moments, plot_likeness, write_panels
from animation.media.sound import Sound
from animation.media.writing import AnimationWriter
from animation.report import RunReport
from animation.settings import Inputs
from animation.skeletons.preview import skeleton_panels
from animation.windows import window_indices
from DWPose.recording import KEYPOINTS_FILE, load_recording

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
    names, total = [CONTACT_SHEET], len(run_inputs.poses)
    count = total - first
    moments, shows_driver = pick_moments(count), driver.kind in ("video", "frames")
    if shows_driver:
        driving = [Image.fromarray(f) for i, f in enumerate(_driver_frames(inputs, count)) if i in moments]
    else:
        driving = [run_inputs.poses[first + moment] for moment in moments]
    block = SheetBlock(
        title=f"{Path(settings.photo).name} moved like {driver.path.name}",
        photo=inputs.photo,
        times=[f"{moment / driver.fps:.2f} s" for moment in moments],
        rows={
            "driver" if shows_driver else "skeleton": driving,
            "result": [Image.fromarray(finish(first + moment)) for moment in moments],
        },
    )
    write_whole(output / CONTACT_SHEET, draw_contact_sheet([block]).save)
    if csim:
        write_whole(output / CSIM_PLOT, plot_likeness(csim).save)
        names.append(CSIM_PLOT)
    if settings.side_by_side:
        panels: dict[str, Image.Image | Iterable[Picture]] = {"photo": inputs.photo}
        if shows_driver:
            panels["driver"] = _driver_frames(inputs, count)
        panels |= {
            "skeleton": itertools.islice(_skeletons(settings, run_inputs), first, None),
            "result": (finish(i) for i in tqdm(range(first, total), desc="side by side", unit="frame")),
        }
        write_panels(output / SIDE_BY_SIDE, panels, driver.fps, sound)
        names.append(SIDE_BY_SIDE)
    return names


def _skeletons(settings: ClipSettings, run_inputs: Inputs) -> Iterator[Picture]:
    """The skeletons of all frames: drawn as large as they are shown where their key points are known."""
    path = settings.intermediate / SKELETONS_FOLDER / KEYPOINTS_FILE
    drawn = load_recording(path).drawn if path.is_file() else None
    if drawn is not None and drawn.num_frames == len(run_inputs.poses):
        return skeleton_panels(drawn, settings.confidence, settings.canvas)
    return iter(run_inputs.poses)


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
