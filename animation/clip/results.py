"""A clip's decoded frames to the files that are looked at, and the figures about them."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
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
from animation.networks import Networks
from animation.report import RunReport
from animation.settings import Inputs
from animation.skeletons.preview import skeleton_panels
from animation.windows import windows_of_steps
from DWPose.recording import KEYPOINTS_FILE, load_recording

logger = logging.getLogger(__name__)

CONTACT_SHEET, CSIM_PLOT, SIDE_BY_SIDE = "contact_sheet.png", "csim.png", "side_by_side.mp4"


class Results:
    """What a clip leaves in its output folder; each file is whole or not there.

    Args:
        settings: of the clip.
        inputs: what they read.
        run_inputs: of the run, with the skeletons and the face's embedding.
        state: with all frames decoded.
        sound: of the MP4; None for none.
        networks: that are open already.
    """

    def __init__(
        self,
        settings: ClipSettings,
        inputs: ClipInputs,
        run_inputs: Inputs,
        state: ClipState,
        sound: Sound | None,
        networks: Networks,
    ):
        self.settings, self.inputs, self.run_inputs, self.state, self.sound = settings, inputs, run_inputs, state, sound
        self.networks = networks
        self.output, self.fps = Path(settings.output), inputs.driver.fps
        self.first = 1 if settings.anchor == "photo" else 0  # the photo's own skeleton is no part of the clip
        self.count = len(run_inputs.poses) - self.first
        self._match = None
        if settings.color_match:
            photo = np.asarray(load_photo(settings.intermediate / PHOTO_FILE))
            frames = (self._cropped(i) for i in tqdm(range(self.count), desc="colours", unit="frame"))
            self._match = matcher(inputs.framing.crop(photo[None])[0], frames, settings.tile_size)

    def _cropped(self, number: int) -> np.ndarray:
        """A frame of the clip without its padding, (H, W, 3) uint8."""
        return self.inputs.framing.crop(self.state.frame(self.first + number)[None])[0]

    def frame(self, number: int) -> np.ndarray:
        """A finished frame of the clip, (H, W, 3) uint8."""
        frame = self._cropped(number)
        return frame if self._match is None else self._match(number, frame)

    def write(self, channel_order: str, device: torch.device, report: RunReport) -> dict:
        """Write the MP4 and what else is wanted, and return the facts for run.json.

        Args:
            channel_order: what the face models are handed.
            device: where they run.
            report: gets the seconds.
        """
        settings = self.settings
        likeness = self._likeness(channel_order, device)
        jumps, csim, before = [], [], None
        writer = AnimationWriter(
            self.output, self.count, self.fps, png=not settings.no_png, gif=settings.gif, sound=self.sound
        )
        with report.stage("write"), writer:
            for number in tqdm(range(self.count), desc="writing", unit="frame"):
                frame = self.frame(number)
                writer.write(frame[None])
                if before is not None:
                    jumps.append(jump(before, frame))
                before = frame
                if likeness is not None:
                    csim.append(likeness(frame))
        with report.stage("show"):
            shown = self._show(csim)
        count, steps = self.first + self.count, settings.num_inference_steps
        overlap = settings.frames_overlap
        *_, windows = windows_of_steps(settings.windows, count, settings.tile_size, overlap, steps)
        facts = {
            "num_frames": self.count,
            "sound": self.sound and round(self.sound.seconds, 3),
            "seams": seams(jumps, [border - self.first for border in window_borders(windows)]),
            "outputs": [*writer.outputs, *shown],
        }
        if likeness is not None:
            found = [value for value in csim if value is not None]
            facts["csim"] = {"mean": round(float(np.mean(found)), 4) if found else None, "frames": csim}
        return facts

    def _show(self, csim: Sequence[float | None]) -> list[str]:
        """Write what is there to look at, beside the clip itself, and return the names."""
        driver, poses = self.inputs.driver, self.run_inputs.poses
        names, moments, shows_driver = [CONTACT_SHEET], pick_moments(self.count), driver.kind in ("video", "frames")
        if shows_driver:
            driving = [Image.fromarray(frame) for i, frame in enumerate(self._driver_frames()) if i in moments]
        else:
            driving = [poses[self.first + moment] for moment in moments]
        block = SheetBlock(
            title=f"{Path(self.settings.photo).name} moved like {driver.path.name}",
            photo=self.inputs.photo,
            times=[f"{moment / self.fps:.2f} s" for moment in moments],
            rows={
                "driver" if shows_driver else "skeleton": driving,
                "result": [Image.fromarray(self.frame(moment)) for moment in moments],
            },
        )
        write_whole(self.output / CONTACT_SHEET, draw_contact_sheet([block]).save)
        if csim:
            write_whole(self.output / CSIM_PLOT, plot_likeness(csim).save)
            names.append(CSIM_PLOT)
        if self.settings.side_by_side:
            panels: dict[str, Picture | Iterable[Picture]] = {
                "photo": self.inputs.photo,
                **({"driver": self._driver_frames()} if shows_driver else {}),
                "skeleton": itertools.islice(self._skeletons(), self.first, None),
                "result": map(self.frame, tqdm(range(self.count), desc="side by side", unit="frame")),
            }
            write_panels(self.output / SIDE_BY_SIDE, panels, self.fps, self.sound)
            names.append(SIDE_BY_SIDE)
        return names

    def _skeletons(self) -> Iterator[Picture]:
        """The skeletons of all frames: drawn as large as they are shown where their key points are known."""
        path = self.settings.intermediate / SKELETONS_FOLDER / KEYPOINTS_FILE
        drawn = load_recording(path).drawn if path.is_file() else None
        if drawn is not None and drawn.num_frames == len(self.run_inputs.poses):
            return skeleton_panels(drawn, self.settings.confidence, self.settings.canvas)
        return iter(self.run_inputs.poses)

    def _driver_frames(self) -> Iterator[np.ndarray]:
        """The driver's frames as the clip shows them, its part repeated."""
        repeated = itertools.chain.from_iterable(itertools.repeat(self.inputs.driver.frames))
        return itertools.islice(repeated, self.count)

    def _likeness(self, channel_order: str, device: torch.device) -> Likeness | None:
        """What compares faces, where there are networks for it and a face in the photo."""
        settings, embedding = self.settings, self.run_inputs.face_embedding
        if settings.no_figures or not embedding.any():
            return None
        try:
            finder = self.networks.open(
                FaceFinder, settings.face_models, settings.dwpose_models, device.type, self.networks
            )
        except InputError as error:
            logger.warning("the faces are not compared: %s", error)
            return None
        return Likeness(finder, embedding, channel_order)
