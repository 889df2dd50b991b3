"""How long videos hold: whether colours drift from the truth and windows' borders show, by the choice of frame 0.

    python -m recipes.long_videos

Animates held-out characters over 300 frames in each way, at animate.py's settings but for the few steps without
guidance that the small networks recommend, and writes the figures. What is done already is not done again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from animation import cli
from animation.clip.figures import window_borders
from animation.clip.flow import Models, make_clip
from animation.clip.settings import ClipSettings
from animation.files import read_json, write_json
from animation.flags import Settings, flag, parse
from animation.windows import window_indices
from puppets.writing import FPS, Format, write_case
from recipes.figures import SIDE
from recipes.videos import load_frames, motion_figures

FRAMES = 300
TILE, OVERLAP = 16, 4
WAYS: dict[str, dict[str, Any]] = {
    "frame 0 of the driver": {},
    "--anchor photo": {"anchor": "photo"},
    "--windows shifted": {"windows": "shifted"},
    "--windows shifted --anchor photo": {"windows": "shifted", "anchor": "photo"},
}


@dataclass(kw_only=True)
class LongSettings(Settings):
    """What is measured."""

    work: str = flag("output/long_videos", "cases and results", metavar="DIR")
    figures: str = flag("recipes/state/long_videos.json", "where the figures go", metavar="FILE")
    cases: int = flag(4, "characters", least=1)
    num_inference_steps: int = flag(6, "denoising steps", least=1)
    guidance_scale: float = flag(1.0, "how strongly the conditions are followed", least=1)


def drift(frames: np.ndarray, truth: np.ndarray) -> list[float]:
    """How far the colours of a picture are from the truth's, in each tenth of a video.

    Args:
        frames, truth: (F, H, W, 3) uint8.

    Returns:
        Ten means, over a tenth's frames and channels, of the distance between the pictures' mean colours, in steps of 8
        bits.
    """
    distance = np.abs(frames.mean(axis=(1, 2)) - truth.mean(axis=(1, 2))).mean(axis=-1)
    return [round(float(part.mean()), 3) for part in np.array_split(distance, 10)]


def main() -> None:
    """Make the cases, animate, measure, write the figures."""
    cli.start_logging()
    settings = parse(LongSettings, __doc__)
    settings.check()
    work, models = Path(settings.work), Models()
    truth = work / "cases"
    truth.mkdir(parents=True, exist_ok=True)
    form = Format(width=SIDE, height=SIDE, num_frames=FRAMES)
    borders = window_borders(window_indices(FRAMES, TILE, OVERLAP))
    for way, options in WAYS.items():
        results = work / "results" / way.replace(" ", "_")
        for index in tqdm(range(settings.cases), desc=way, unit="case"):
            case = write_case(truth / f"case-{index + 1}", index, form, roams=True)
            clip = ClipSettings(
                photo=str(case / "reference.png"),
                video=str(case / "poses"),
                output=str(results / case.name),
                fps=FPS,
                tile_size=TILE,
                frames_overlap=OVERLAP,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                no_figures=True,
                **options,
            ).resolve()
            if not (results / case.name / "animation.mp4").is_file():
                make_clip(clip, clip.read_inputs(), models)
        drifts = [
            drift(load_frames(results / case.name / "animated_images"), load_frames(case / "truth"))
            for case in sorted(truth.iterdir())
        ]
        found = {"drift": np.mean(drifts, axis=0).round(3).tolist(), **motion_figures(results, truth, borders)}
        print(way, found)
        write_json(Path(settings.figures), read_json(Path(settings.figures)) | {way: found, "cases": settings.cases})


if __name__ == "__main__":
    main()
