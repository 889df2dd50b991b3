"""The figures of the small checkpoints on held-out characters and motions, each ablation with the same seeds.

    python -m recipes.figures

Animates 20 cases whose photo is another moment of the driving video (`same`) and 20 where one character moves like
another (`cross`), and measures them with the project's own evaluation. What is done already is not done again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from PIL import Image
from tqdm import tqdm

from animation import cli
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
from puppets.writing import FPS, Format, write_case

SIDE, FRAMES = 128, 16
RUNS = [
    *(f"same/{variant}" for variant in ("whole", "copy")),
    *(f"cross/{variant}" for variant in ("whole", "copy", "no_poses", "no_face_tokens", "no_alignment", "hjb")),
]
COLUMNS = ("psnr", "ssim", "l1", "csim_photo", "csim_truth", "csim_driver", "pck_0.05", "pck_0.1")


@dataclass(kw_only=True)
class FigureSettings(Weights, Sampling):
    """What is measured, and how it is animated."""

    work: str = flag("output/puppet_figures", "cases, results, evaluations", metavar="DIR")
    figures: str = flag("recipes/state/figures.json", "where the figures go", metavar="FILE")
    cases: int = flag(20, "of each kind", least=1)
    runs: list[str] = flag(RUNS, "KIND/VARIANT; left out, all", metavar="RUN")
    seed: int = flag(0, "of each animation", least=0)


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
    """Animate a case as `inference_basic.py` would, but for what the variant leaves out; `mode` changes settings."""
    cls = FaceOptimizationSettings if variant == "hjb" else InferenceSettings
    run = cls(
        **settings.shared(Weights) | settings.shared(Sampling) | mode,
        **{"end_refine_step": settings.num_inference_steps} if variant == "hjb" else {},
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        output_dir=str(output),
        height=SIDE,
        width=SIDE,
        decode_chunk_size=FRAMES,
    )
    inputs = run.read_inputs()
    with AnimationWriter(output, len(inputs.poses), FPS, png=True, gif=False) as writer:
        if variant == "copy":
            writer.write(np.stack([np.asarray(inputs.photo)] * len(inputs.poses)))
            return
        device = torch.device("cpu")
        inputs.face_embedding, _ = embed_photo(inputs.photo, run, choose_channel_order(run), device)
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


def main() -> None:
    """Make the cases, animate, measure, write the figures."""
    cli.start_logging()
    settings = fill_in(parse(FigureSettings, __doc__))
    settings.check()
    pipeline = open_pipeline(settings)
    form, work = Format(width=SIDE, height=SIDE, num_frames=FRAMES), Path(settings.work)
    for run in settings.runs:
        kind, variant = run.split("/")
        truth, results = work / "cases" / kind, work / "results" / kind / variant
        for index in tqdm(range(settings.cases), desc=run, unit="case"):
            truth.mkdir(parents=True, exist_ok=True)
            case = write_case(truth / f"case-{index + 1}", index, form, kind)
            if not (results / case.name / "animation.mp4").is_file():
                animate_case(pipeline, case, results / case.name, variant, settings)
        found = measure(results, truth, work / "evaluation" / kind / variant, settings)
        print(run, found)
        write_json(Path(settings.figures), read_json(Path(settings.figures)) | {run: found})


if __name__ == "__main__":
    main()
