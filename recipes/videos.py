"""Frames on disk and through the VAE, and what only a moving picture shows: flicker, and seams of windows."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from animation.clip.figures import jump, seams
from animation.decoding import decode_frames, encode_frames


def load_frames(folder: Path) -> np.ndarray:
    """frame_0.png … of a folder, (F, H, W, 3) uint8."""
    paths = (folder / f"frame_{number}.png" for number in range(sum(1 for _ in folder.glob("frame_*.png"))))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


@torch.no_grad()
def round_trip(vae: torch.nn.Module, frames: np.ndarray) -> np.ndarray:
    """Frames through the VAE and back, (F, H, W, 3) uint8."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = encode_frames(vae, pixels).chunk(2, dim=1)[0] * vae.config.scaling_factor
    decoded = ((decode_frames(vae, latents) + 1) * 127.5).round().clamp(0, 255).byte()
    return decoded.permute(0, 2, 3, 1).numpy()


def still_flicker(frames: np.ndarray, truth: np.ndarray) -> float:
    """The mean absolute change from frame to frame of what stands still in the truth, (F, H, W, 3) uint8 both.

    NaN where all moves.
    """
    change, expected = (np.abs(np.diff(values.astype(np.int16), axis=0)) for values in (frames, truth))
    still = (expected == 0).all(axis=-1)
    return float(change[still].mean()) if still.any() else float("nan")


def motion_figures(results: Path, truth: Path, borders: Sequence[int]) -> dict[str, float]:
    """Means over the cases of a run.

    Args:
        results: a folder a case, with animated_images/.
        truth: a folder a case, with truth/.
        borders: frames before which a window begins or after which one ended, see `window_borders`.

    Returns:
        `flicker`, how far changes between frames are from the truth's; `still_flicker`, the same where nothing moves;
        `seam`, how much more the picture jumps at windows' borders, see `seams`.
    """
    rows = []
    for case in sorted(results.iterdir()):
        found, expected = load_frames(case / "animated_images"), load_frames(truth / case.name / "truth")
        changes = (np.diff(frames.astype(np.int16), axis=0) for frames in (found, expected))
        flicker, seam = np.abs(np.subtract(*changes)).mean(), seams([jump(*p) for p in pairwise(found)], borders)
        rows.append((flicker, still_flicker(found, expected), seam["ratio"] or np.nan))
    means = np.nanmean(np.array(rows, float), axis=0).tolist()
    return {name: round(value, 3) for name, value in zip(("flicker", "still_flicker", "seam"), means, strict=True)}
