"""Quality over arithmetic of the fast modes, on held-out characters that move like others, with the same seeds.

    python -m recipes.fast_modes

Writes a table and a picture of both. The arithmetic is counted for 450 frames of 512×512 at the released size. Quality
is that of the small checkpoint with guidance, in windows of 8 frames that share 2. What is done already is not done
again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from tqdm import tqdm

from animation import cli
from animation.clip.figures import window_borders
from animation.clip.settings import PRESETS
from animation.files import read_json, write_json
from animation.flags import flag, parse
from animation.modules.deep_cache import recall_deep
from animation.modules.unet import PoseGuidedUNet
from animation.planning.counting import META, FusedAttention, MetaCounter
from animation.schedules import EVERYWHERE, guided_steps, set_timesteps, whole_steps
from animation.weights.layout import fill_in
from animation.windows import window_indices, windows_of_steps
from puppets.writing import Format, write_case
from recipes.animation import SCHEDULER
from recipes.figures import SIDE, FigureSettings, animate_case, measure, open_pipeline
from recipes.videos import motion_figures

QUALITIES = {"psnr": "PSNR, dB", "csim_photo": "CSIM to the photo"}
TICKS = 5_000, 10_000, 20_000, 40_000  # TFLOP
FRAMES = 22  # four windows of 8 frames that share 2
LONG = {"num_frames": 450, "tile_size": 16, "overlap": 4}
AYS, INTERVAL = {"schedule": "ays", "num_inference_steps": 10}, {"guidance_interval": [0.5, 50.0]}
SHIFTED = {"windows": "shifted"}
OPTIONS = {"num_inference_steps", "schedule", "guidance_interval", "windows", "cache"}  # of a preset
MODES: dict[str, dict[str, Any]] = {
    "standard": {},
    "10 steps": {"num_inference_steps": 10},
    "AYS 10": AYS,
    "interval": INTERVAL,
    "shifted": SHIFTED,
    "cache 2": {"cache": 2},
    "cache 3": {"cache": 3},
    "AYS 10, shifted": AYS | SHIFTED,
    **{name: {key: PRESETS[name][key] for key in PRESETS[name].keys() & OPTIONS} for name in ("fast", "draft")},
}


@dataclass(kw_only=True)
class FastSettings(FigureSettings):
    """What is measured, and how it is animated; each mode sets its own of these."""

    work: str = flag("output/fast_modes", "cases, results, evaluations", metavar="DIR")
    figures: str = flag("recipes/state/fast_modes.json", "where the figures go", metavar="FILE")
    picture: str = flag("docs/images/fast_modes.png", "where the picture goes", metavar="FILE")
    runs: list[str] = flag(list(MODES), "modes; left out, all", metavar="MODE")
    num_inference_steps: int | None = flag(25, "denoising steps where a mode says nothing else", least=1)
    guidance_scale: float | None = flag(2.0, "how strongly the conditions are followed")
    tile_size: int = flag(8, "frames that the UNet sees at once", least=2)
    frames_overlap: int = flag(2, "frames that neighbouring windows share", least=0)


@cache
def unet_tflop(whole: bool, frames: int = LONG["tile_size"], side: int = 64) -> float:
    """10¹² operations of a call of the released UNet for one guidance branch, whole or with deep layers cached."""
    with torch.device(META):
        unet = torch.nn.Module.to(PoseGuidedUNet(num_attention_heads=(5, 10, 20, 20)).eval(), META)
    sample = torch.empty(1, frames, 8, side, side, device=META)
    tokens, time_ids = torch.empty(1, 5, 1024, device=META), torch.empty(1, 3, device=META)
    features = torch.empty(frames, unet.up_blocks[-2].upsamplers[0].channels, side // 2, side // 2, device=META)
    with torch.no_grad(), FusedAttention(), MetaCounter() as counter:
        if whole:
            unet(sample, torch.zeros((), device=META), tokens, time_ids)
        else:
            with recall_deep(unet, features):
                unet(sample, torch.zeros((), device=META), tokens, time_ids)
    return counter.flops / 1e12


def arithmetic(mode: Mapping[str, Any], num_steps: int = 25) -> tuple[int, float]:
    """Calls of the UNet for one branch of one window, and TFLOP of them all, for a long video at the released size."""
    chosen = SimpleNamespace(
        **{"schedule": "karras", "num_inference_steps": num_steps, "windows": "overlapping", "cache": 1} | mode
    )
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    set_timesteps(scheduler, chosen.num_inference_steps, chosen.schedule, "cpu")
    guided = guided_steps(scheduler.sigmas[:-1].tolist(), mode.get("guidance_interval") or EVERYWHERE)
    windows = windows_of_steps(chosen.windows, *LONG.values(), chosen.num_inference_steps)
    calls = [len(of_step) * (1 + both) for of_step, both in zip(windows, guided, strict=True)]
    whole = whole_steps(guided, chosen.cache)
    return sum(calls), sum(count * unet_tflop(is_whole) for count, is_whole in zip(calls, whole, strict=True))


def draw(figures: Mapping[str, Mapping[str, float]], path: Path) -> list[str]:
    """Draw PSNR and CSIM over TFLOP, with a line through the modes that no other one is better and cheaper than.

    Returns their names for PSNR.
    """
    import matplotlib.pyplot as plt

    fronts = []
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for panel, (quality, label) in zip(panels, QUALITIES.items(), strict=True):
        points = sorted((values["tflop"], values[quality], name) for name, values in figures.items())
        front = [point for i, point in enumerate(points) if all(point[1] > other[1] for other in points[:i])]
        panel.plot(*zip(*[point[:2] for point in front], strict=True), color="grey", zorder=0)
        for name, values in figures.items():
            marker = {"marker": "*", "markersize": 13} if name in PRESETS else {"marker": "o", "markersize": 7}
            panel.plot(values["tflop"], values[quality], linestyle="none", label=name, **marker)
        panel.set(xlabel="TFLOP, 450 frames of 512×512", ylabel=label, xscale="log", xlim=(4e3, 6e4))
        panel.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
        panel.minorticks_off()
        fronts.append([name for *_, name in front])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", title="stars: presets")
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return fronts[0]


def main() -> None:
    """Make the cases, animate, measure, write the figures and the picture."""
    cli.start_logging()
    settings = fill_in(parse(FastSettings, __doc__))
    settings.check()
    pipeline = open_pipeline(settings)
    pipeline.scheduler = EulerDiscreteScheduler(**SCHEDULER)  # the released noise levels, which the modes are about
    form, work = Format(width=SIDE, height=SIDE, num_frames=FRAMES), Path(settings.work)
    truth, path = work / "cases", Path(settings.figures)
    truth.mkdir(parents=True, exist_ok=True)
    borders = window_borders(window_indices(FRAMES, settings.tile_size, settings.frames_overlap))
    for name in settings.runs:
        results = work / "results" / name
        for index in tqdm(range(settings.cases), desc=name, unit="case"):
            case = write_case(truth / f"case-{index + 1}", index, form, "cross")
            if not (results / case.name / "animation.mp4").is_file():
                animate_case(pipeline, case, results / case.name, "whole", settings, **MODES[name])
        calls, tflop = arithmetic(MODES[name])
        found = measure(results, truth, work / "evaluation" / name, settings)
        found |= {"calls": calls, "tflop": round(tflop), **motion_figures(results, truth, borders)}
        print(name, found)
        write_json(path, read_json(path) | {name: found})
    print("on the front:", ", ".join(draw(read_json(path), Path(settings.picture))))


if __name__ == "__main__":
    main()
