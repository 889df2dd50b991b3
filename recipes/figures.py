"""The figures of the small checkpoints on held-out characters and motions, each ablation with the same seeds.

    python -m recipes.figures

Animates cases of four kinds and measures them with the project's own evaluation: `same`, whose photo is another moment
of the driving video; `cross`, where one character moves like another; `hidden`, where the photo hides the face and a
clear picture is embedded; `long`, as same, in several windows. Each run is made with several seeds. The tables of the
model card are written from what was measured. What is done already is not done again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from PIL import Image
from tqdm import tqdm

from animation import cli
from animation.clip.figures import window_borders
from animation.evaluation.evaluation import evaluate, overall
from animation.evaluation.settings import EvaluationSettings
from animation.face.settings import FaceOptimizationSettings
from animation.files import read_json, write_json
from animation.flags import flag, parse
from animation.media.writing import AnimationWriter
from animation.modules.attention_processor import IDAdapterAttnProcessor, ImageTokenAttnProcessor
from animation.modules.unet import PoseGuidedUNet
from animation.pipeline import AnimationPipeline
from animation.report import RunReport
from animation.run import choose_channel_order, embed_photo, render
from animation.settings import InferenceSettings, Sampling, Weights
from animation.weights.layout import fill_in
from animation.windows import window_indices
from puppets.writing import FPS, Format, write_case
from recipes.card import write_card
from recipes.videos import load_frames, motion_figures, round_trip

SIDE = 128
FRAMES = {"same": 16, "cross": 16, "hidden": 16, "long": 60}  # by kind of case
VARIANTS = {
    "same": ("whole", "25_steps", "copy"),
    "cross": ("whole", "copy", "no_poses", "no_face_tokens", "no_alignment", "hjb"),
    "hidden": ("whole", "copy", "no_face_tokens"),
    "long": ("whole", "vae"),
}
RUNS = [f"{kind}/{variant}" for kind, variants in VARIANTS.items() for variant in variants]
CHUNK = 16  # frames decoded at a time
SEEDLESS = ("copy", "vae")  # the same for every seed
STEPS = {"25_steps": 25}  # as many as the released networks take
COLUMNS = ("psnr", "ssim", "l1", "csim_photo", "csim_truth", "csim_driver", "pck_0.05", "pck_0.1")


@dataclass(kw_only=True)
class FigureSettings(Weights, Sampling):
    """What is measured, and how it is animated."""

    work: str = flag("output/puppet_figures", "cases, results, evaluations", metavar="DIR")
    figures: str = flag("recipes/state/figures.json", "where the figures go", metavar="FILE")
    cases: int = flag(20, "of each kind", least=1)
    runs: list[str] = flag(RUNS, "KIND/VARIANT; left out, all", metavar="RUN")
    seeds: int = flag(3, "how many; the first is 0", least=1)
    card: str = flag("checkpoints/tiny/README.md", "whose tables are written", metavar="FILE")


class Unaligned:
    """The ID-Adapter without the alignment of distributions: the two attentions' outputs are added as they are."""

    def __init__(self, adapter: IDAdapterAttnProcessor):
        self.adapter = adapter

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, attention_mask=None
    ) -> torch.Tensor:
        """(B·F, S, C) → (B·F, S, C), for tokens (B·F, 1 + n, D), the image token first."""
        tokens = encoder_hidden_states[:, 1:]
        query, key, value = (
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for states in (attn.to_q(hidden_states), self.adapter.id_to_k(tokens), self.adapter.id_to_v(tokens))
        )
        features = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        return attn.to_out[0](attn.to_v(encoder_hidden_states[:, :1]) + features)


@contextmanager
def ablation(unet: PoseGuidedUNet, variant: str) -> Iterator[None]:
    """The UNet with its ID-Adapters without face tokens, or without the alignment, or as they are."""
    before = dict(unet.attn_processors)
    others = {"no_face_tokens": lambda _: ImageTokenAttnProcessor(unet.layout), "no_alignment": Unaligned}
    adapters = {name: processor for name, processor in before.items() if isinstance(processor, IDAdapterAttnProcessor)}
    try:
        if variant in others:
            unet.set_attn_processor(before | {name: others[variant](adapter) for name, adapter in adapters.items()})
        yield
    finally:
        unet.set_attn_processor(before)


def open_pipeline(settings: Weights) -> AnimationPipeline:
    """The pipeline of filled-in settings, without progress bars of its own."""
    pipeline = AnimationPipeline.from_checkpoints(
        svd_folder=settings.pretrained_model_name_or_path,
        unet_path=settings.unet_model_name_or_path,
        pose_net_path=settings.posenet_model_name_or_path,
        face_encoder_path=settings.face_encoder_model_name_or_path,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def animate_case(
    pipeline: AnimationPipeline, case: Path, output: Path, variant: str, settings: Sampling, **mode: Any
) -> None:
    """Animate a case as `inference_basic.py` would, but for what the variant leaves out; `mode` changes settings.

    The face is embedded from face.png where the case has one. `copy` is the photo in every frame, `vae` the truth
    through the VAE and back.
    """
    cls, face = FaceOptimizationSettings if variant == "hjb" else InferenceSettings, case / "face.png"
    mode |= {"face_photo": str(face)} if face.is_file() else {}
    run = cls(
        **settings.shared(Weights) | settings.shared(Sampling) | mode,
        **{"end_refine_step": settings.num_inference_steps} if variant == "hjb" else {},
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        output_dir=str(output),
        height=SIDE,
        width=SIDE,
        decode_chunk_size=CHUNK,
    )
    inputs = run.read_inputs()
    with AnimationWriter(output, len(inputs.poses), FPS, png=True, gif=False) as writer:
        if variant == "copy":
            writer.write(np.stack([np.asarray(inputs.photo)] * len(inputs.poses)))
            return
        if variant == "vae":
            writer.write(round_trip(pipeline.vae, load_frames(case / "truth")))
            return
        device = torch.device("cpu")
        inputs.face_embedding, _ = embed_photo(inputs, run, choose_channel_order(run), device)
        if variant == "no_poses":
            inputs.poses = [Image.new("RGB", pose.size) for pose in inputs.poses]
        with ablation(pipeline.unet, variant):
            for frames in render(run, inputs, pipeline, RunReport({}, device)):
                writer.write(frames)


def measure(results: Path, truth: Path, output: Path, settings: FigureSettings) -> dict[str, float]:
    """The means of one run over its cases."""
    evaluation = EvaluationSettings(
        results=str(results),
        truth=str(truth),
        output_dir=str(output),
        face_models=settings.face_models,
        pose_models=settings.dwpose_models,
        device="cpu",
    )
    means = overall(evaluate(evaluation, evaluation.read_cases()))
    return {name: round(means[name][0], 4) for name in COLUMNS if name in means}


def with_spread(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """By figure, the mean over the seeds and the standard deviation between them, 0 for one."""
    deviation = stdev if len(of_seeds) > 1 else lambda _: 0.0
    columns = {name: [figures[name] for figures in of_seeds] for name in of_seeds[0]}
    return {name: [round(fmean(values), 4), round(deviation(values), 4)] for name, values in columns.items()}


def measure_run(name: str, pipeline: AnimationPipeline, settings: FigureSettings) -> dict[str, list[float]]:
    """Make the cases of a run, animate them with each seed, measure them."""
    kind, variant = name.split("/")
    work, of_seeds = Path(settings.work), []
    case_kind = "same" if kind == "long" else kind
    truth, form = work / "cases" / kind, Format(width=SIDE, height=SIDE, num_frames=FRAMES[kind])
    truth.mkdir(parents=True, exist_ok=True)
    borders = window_borders(window_indices(FRAMES[kind], settings.tile_size, settings.frames_overlap))
    for seed in range(1 if variant in SEEDLESS else settings.seeds):
        results = work / "results" / name / f"seed-{seed}"
        for index in tqdm(range(settings.cases), desc=f"{name}, seed {seed}", unit="case"):
            case = write_case(truth / f"case-{index + 1}", index, form, case_kind, roams=True)
            if not (results / case.name / "animation.mp4").is_file():
                animate_case(pipeline, case, results / case.name, variant, settings, seed=seed)
        found = measure(results, truth, work / "evaluation" / name / f"seed-{seed}", settings)
        of_seeds.append(found | (motion_figures(results, truth, borders) if kind == "long" else {}))
    return with_spread(of_seeds)


def main() -> None:
    """Make the cases, animate, measure, write the figures and the model card's tables."""
    cli.start_logging()
    settings = fill_in(parse(FigureSettings, __doc__))
    settings.check()
    pipeline, path = open_pipeline(settings), Path(settings.figures)
    for name in settings.runs:
        chosen = replace(settings, num_inference_steps=STEPS.get(name.split("/")[1], settings.num_inference_steps))
        found = measure_run(name, pipeline, chosen)
        print(name, found)
        told = {"cases": chosen.cases, "seeds": chosen.seeds, "steps": chosen.num_inference_steps}
        write_json(path, read_json(path) | {name: {"settings": told} | found})
    write_card(read_json(path), Path(settings.card))


if __name__ == "__main__":
    main()
