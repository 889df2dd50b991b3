"""What an unfinished clip keeps in its output folder, so that the same command goes on where it stopped.

    .unfinished/state.json           all that latents and frames depend on
    .unfinished/latents.safetensors  latents and random state after the last whole step, and which step comes next
    .unfinished/frames/frame_0.png   the frames that are decoded, as they come out of the decoder

Each file is replaced whole, so that a process may be killed at any moment.
"""

import itertools
import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from animation.clip.settings import STATE_FILE, STATE_FOLDER
from animation.files import read_json, write_json, write_whole
from animation.media.writing import write_png
from animation.sampling import WindowedDenoiser
from animation.weights.state_dicts import write_state_dict

logger = logging.getLogger(__name__)

LATENTS_FILE, FRAMES_FOLDER = "latents.safetensors", "frames"
WRITERS = 4  # threads


class ClipState:
    """The state of an unfinished clip, and the `Checkpoint` of its denoising loop.

    What an earlier run left is kept where it depends on the same, and else removed; the log says why.

    Args:
        output: the clip's folder.
        sampling: all that the latents depend on, by names that a user knows; JSON values.
        decoding: what the frames depend on beside it.

    Attributes:
        resumed_from: the denoising step that a restored state went on with; 0 where there was none.
    """

    def __init__(self, output: str | Path, sampling: Mapping, decoding: Mapping):
        self.folder = Path(output) / STATE_FOLDER
        self.latents_path = self.folder / LATENTS_FILE
        self.resumed_from = 0
        wanted = json.loads(json.dumps({"sampling": sampling, "decoding": decoding}, default=str))
        found = read_json(self.folder / STATE_FILE)
        if found != wanted:
            self._drop(found, wanted)
            write_json(self.folder / STATE_FILE, wanted)

    def _drop(self, found: dict, wanted: dict) -> None:
        """Remove what does not hold any more."""
        same = found.get("sampling") == wanted["sampling"]
        if found:
            what, then = ("the decoded frames", "they are decoded") if same else ("the state", "the clip is started")
            changes = [change for part in wanted for change in differences(found.get(part, {}), wanted[part])]
            logger.warning(
                f"{what} of an unfinished run in {self.folder} does not hold any more, and {then} afresh: "
                f"{'; '.join(changes)}"
            )
        if same:
            shutil.rmtree(self.folder / FRAMES_FOLDER, ignore_errors=True)
        else:
            self.remove()

    def remove(self) -> None:
        """Remove all of it: first what says that it holds."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def denoising(self, generator: torch.Generator, notes: list | None = None) -> "ClipState":
        """Itself, for a denoising loop with one generator of random numbers, and notes that grow while it runs."""
        self.generator, self.notes = generator, [] if notes is None else notes
        return self

    def restore(self, denoiser: WindowedDenoiser) -> tuple[int, torch.Tensor] | None:
        """The step to go on with and its latents; the generator, the denoiser's batching and the notes as they were."""
        if not self.latents_path.is_file():
            return None
        try:
            with safe_open(self.latents_path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                latents, random_state = file.get_tensor("latents"), file.get_tensor("random_state")
            step, cfg_batch, notes = int(facts["step"]), int(facts["cfg_batch"]), list(facts["notes"])
            self.generator.set_state(random_state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            logger.warning(f"{self.latents_path}: damaged ({error}); the clip is sampled from the first step")
            return None
        denoiser.cfg_batch, self.resumed_from, self.notes[:] = cfg_batch, step, notes
        logger.info(f"{step} denoising steps of an unfinished run are taken from {self.latents_path}")
        return step, latents

    def keep(self, step: int, latents: torch.Tensor, denoiser: WindowedDenoiser) -> None:
        """Keep the latents with which `step` begins; none that hold NaN or infinity, which the loop complains of."""
        latents = latents.cpu().contiguous()
        if latents.isfinite().all():
            facts = json.dumps({"step": step, "cfg_batch": denoiser.cfg_batch, "notes": self.notes})
            tensors = {"latents": latents, "random_state": self.generator.get_state()}
            write_whole(self.latents_path, lambda path: write_state_dict(path, tensors, {"facts": facts}))

    def frame_path(self, number: int) -> Path:
        """Where a decoded frame is."""
        return self.folder / FRAMES_FOLDER / f"frame_{number}.png"

    def decoded(self) -> int:
        """How many frames from the first are decoded and whole."""
        return next(number for number in itertools.count() if not _is_whole(self.frame_path(number)))

    def keep_frames(self, first: int, frames: np.ndarray) -> None:
        """Keep decoded frames, (n, H, W, 3) uint8, from number `first` on."""

        def keep(number: int) -> None:
            write_whole(self.frame_path(first + number), lambda path: write_png(path, frames[number]))

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(keep, range(len(frames))))

    def frame(self, number: int) -> np.ndarray:
        """A decoded frame, (H, W, 3) uint8."""
        with Image.open(self.frame_path(number), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))


def differences(found: Mapping, wanted: Mapping) -> list[str]:
    """What changed between two sets of facts, in words."""
    changes = []
    for name in dict.fromkeys([*wanted, *found]):
        before, after = found.get(name), wanted.get(name)
        if before != after:
            told = name.startswith("--") and not any(isinstance(value, (list, dict)) for value in (before, after))
            changes.append(f"{name} was {before}, is {after}" if told else f"{name} changed")
    return changes


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except Exception:  # Pillow raises a dozen types for what is damaged
        return False
    return True
