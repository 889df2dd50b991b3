"""A rough moving picture of a clip while it is sampled, from the latents that its run keeps after each step.

No network decodes them. The clean latents that a step aims at are a sum of those before and after it, which share their
noise, and a pixel's colour is close to a linear function of its latents. So one least-squares fit finds both: from the
first frame's latents before and after the step to the photo, which that frame resembles; and it colours all frames.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from animation.app.jobs import Job
from animation.clip.settings import INTERMEDIATE_FOLDER, PHOTO_FILE, STATE_FOLDER
from animation.clip.state import LATENTS_FILE
from animation.files import write_whole

SIDE = 320  # pixels, of the longer side
MILLISECONDS = 120  # a frame is shown
MOST_FRAMES = 60
RIDGE = 1e-3  # keeps the fit from what only noise tells apart


class Previews:
    """The previews of clips that are being sampled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: dict[str, tuple[int, np.ndarray]] = {}  # by clip: when the latents changed, and what they were
        self._shown: dict[str, Path] = {}

    def __call__(self, job: Job) -> Path | None:
        """The newest preview of a clip, an animated WebP; None before there are two steps."""
        latents_path = job.result / STATE_FOLDER / LATENTS_FILE
        with self._lock:
            try:
                changed = latents_path.stat().st_mtime_ns
                before = self._before.get(job.name)
                if before is None or before[0] != changed:
                    with safe_open(latents_path, "numpy") as file:
                        kept = file.get_slice("latents")
                        latents = kept[0, : min(MOST_FRAMES, kept.get_shape()[1])]
                    self._before[job.name] = changed, latents
                    if before is not None and before[1].shape == latents.shape:
                        self._show(job, coloured(before[1], latents, _photo(job)), changed)
            except (OSError, SafetensorError):
                pass  # not there yet, or no more
            return self._shown.get(job.name)

    def _show(self, job: Job, frames: np.ndarray, changed: int) -> None:
        """Write a preview under a name of its own, which no browser has seen, and remove the one before."""
        height, width = frames.shape[1:3]
        size = round(width * SIDE / max(width, height)), round(height * SIDE / max(width, height))
        images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
        path = job.folder / f"preview-{changed}.webp"
        options: dict[str, Any] = {
            "save_all": True,
            "append_images": images[1:],
            "duration": MILLISECONDS,
            "loop": 0,
            "quality": 70,
        }
        write_whole(path, lambda partial: images[0].save(partial, **options))
        if (old := self._shown.get(job.name)) is not None:
            old.unlink(missing_ok=True)
        self._shown[job.name] = path

    def forget(self, job: Job) -> None:
        """Let go of a clip's preview."""
        with self._lock:
            self._before.pop(job.name, None)
            if (old := self._shown.pop(job.name, None)) is not None:
                old.unlink(missing_ok=True)


def coloured(before: np.ndarray, after: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Colours of the clean latents between two steps, fitted on the first frame.

    Args:
        before, after: (F, C, h, w), the latents around a step.
        photo: (h, w, 3), 0..255, the photo at the latents' size.

    Returns:
        (F, h, w, 3) uint8.
    """
    both = np.concatenate([before, after], axis=1).transpose(0, 2, 3, 1).astype(np.float64)  # (F, h, w, 2·C)
    first, mean = both[0].reshape(-1, both.shape[-1]), both[0].mean(axis=(0, 1))
    spread, colour = both[0].std(axis=(0, 1)) + 1e-9, photo.mean(axis=(0, 1))
    known = (first - mean) / spread
    ridge = RIDGE * len(known) * np.eye(known.shape[-1])
    fitted = np.linalg.solve(known.T @ known + ridge, known.T @ (photo.reshape(-1, 3) - colour))
    return ((both - mean) / spread @ fitted + colour).clip(0, 255).round().astype(np.uint8)


def _photo(job: Job) -> np.ndarray:
    """The photo on its canvas, at the latents' size, (h, w, 3)."""
    with Image.open(job.result / INTERMEDIATE_FOLDER / PHOTO_FILE) as image:
        small = image.convert("RGB").resize((image.width // 8, image.height // 8), Image.Resampling.BOX)
    return np.asarray(small, np.float64)
