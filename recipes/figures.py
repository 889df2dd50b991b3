"""The figures of the small checkpoints on held-out characters and motions, each ablation with the same seeds.

    python -m recipes.figures

Animates 20 cases whose photo is another moment of the driving video (`same`) and 20 where one character moves like
another (`cross`), and measures them with the project's own evaluation. What is done already is not done again.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animation.evaluation.evaluation import evaluate
from animation.evaluation.records import overall
from animation.evaluation.settings import EvaluationSettings
from animation.face.embedding import embed_face
from animation.face.settings import FaceOptimizationSettings
from animation.face_optimization import build_face_optimizer
from animation.media.writing import AnimationWriter
from animation.modules import attention_processor
from animation.pipeline import AnimationPipeline
from animation.report import RunReport
from animation.settings import CONDITIONED_FPS
from animation.training.step import MOTION_BUCKET_ID
from puppets.writing import FPS, Format, write_case

SIDE, FRAMES = 128, 16
RUNS = (
    *(("same", variant) for variant in ("whole", "copy")),
    *(("cross", variant) for variant in ("whole", "copy", "no_poses", "no_face_tokens", "no_alignment", "hjb")),
)
COLUMNS = ("psnr", "ssim", "l1", "csim_photo", "csim_truth", "csim_driver", "pck_0.05", "pck_0.1")


@contextlib.contextmanager
def ablation(variant: str) -> Iterator[None]:
    """The ID-Adapter without its face tokens, or without the alignment of distributions."""
    with contextlib.ExitStack() as stack:
        if variant in ("no_face_tokens", "no_alignment"):
            stack.enter_context(mock.patch.object(attention_processor, "folding_pays", lambda *_: False))
            replaced = (lambda features, _target: 0 * features) if variant == "no_face_tokens" else lambda y, _target: y
            stack.enter_context(mock.patch.object(attention_processor, "align_distribution", replaced))
        yield


def animate_case(pipeline: AnimationPipeline, case: Path, output: Path, variant: str, args: argparse.Namespace) -> None:
    """Animate a case as `inference_basic.py` would, but for what the variant leaves out."""
    settings = FaceOptimizationSettings(
        validation_image=str(case / "reference.png"),
        validation_control_folder=str(case / "poses"),
        output_dir=str(output),
        face_models=str(args.face_models),
        dwpose_models=str(args.dwpose),
        face_embedding_extractor_weight_path=str(args.checkpoints / "Animation" / "glintr100_torch.safetensors"),
        height=SIDE,
        width=SIDE,
    )
    inputs = settings.read_inputs()
    poses = list(inputs.poses)
    with AnimationWriter(output, len(poses), FPS, png=True, gif=False) as writer:
        if variant == "copy":
            writer.write(np.stack([np.asarray(inputs.photo)] * len(poses)))
            return
        if variant == "no_poses":
            poses = [Image.new("RGB", pose.size) for pose in poses]
        embedding = embed_face(inputs.photo, args.face_models, "bgr", "cpu", None, args.dwpose)
        generator = torch.Generator().manual_seed(0)
        refine = None
        if variant == "hjb":
            settings = replace(settings, end_refine_step=args.steps)
            refine = build_face_optimizer(settings, inputs, pipeline, RunReport({}, torch.device("cpu")))
            refine.progress = False
        with ablation(variant):
            conditions = pipeline.encode(
                inputs.photo,
                poses,
                embedding,
                SIDE,
                SIDE,
                fps=CONDITIONED_FPS,
                motion_bucket_id=MOTION_BUCKET_ID,
                noise_aug_strength=0.02,
                generator=generator,
            )
            latents = pipeline.denoise(
                conditions,
                num_inference_steps=args.steps,
                guidance_scale=args.guidance_scale,
                tile_size=args.tile_size,
                overlap=args.overlap,
                generator=generator,
                refine_x0=refine,
            )
        for frames in pipeline.decode(latents, len(poses)):
            writer.write(frames)


def measure(results: Path, truth: Path, output: Path, args: argparse.Namespace) -> dict[str, float]:
    """The means of one run over its cases."""
    settings = EvaluationSettings(
        results=str(results),
        truth=str(truth),
        output_dir=str(output),
        face_models=str(args.face_models),
        pose_models=str(args.dwpose),
        device="cpu",
    )
    means = overall(evaluate(settings, settings.read_cases()))
    return {name: round(means[name][0], 4) for name in COLUMNS if name in means}


def main() -> None:
    """Make the cases, animate, measure, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--dwpose", type=Path, default=Path("checkpoints/tiny/DWPose"))
    parser.add_argument("--face_models", type=Path, default=Path("models/tiny/antelopev2"))
    parser.add_argument("--work", type=Path, default=Path("output/puppet_figures"), help="cases, results, evaluations")
    parser.add_argument("--figures", type=Path, default=Path("recipes/state/figures.json"))
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--runs", nargs="+", default=["/".join(run) for run in RUNS], metavar="KIND/VARIANT")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--tile_size", type=int, default=16)
    parser.add_argument("--overlap", type=int, default=4)
    args = parser.parse_args()
    svd, animation = args.checkpoints / "SVD", args.checkpoints / "Animation"
    pipeline = AnimationPipeline.from_checkpoints(
        svd, *(animation / f"{part}.safetensors" for part in ("unet", "pose_net", "face_encoder"))
    )
    pipeline.set_progress_bar_config(disable=True)
    form, found = Format(width=SIDE, height=SIDE, num_frames=FRAMES), {}
    for run in args.runs:
        kind, variant = run.split("/")
        truth, results = args.work / "cases" / kind, args.work / "results" / kind / variant
        for index in tqdm(range(args.cases), desc=run, unit="case"):
            truth.mkdir(parents=True, exist_ok=True)
            case = write_case(truth / f"case-{index + 1}", index, form, kind)
            if not (results / case.name / "animation.mp4").is_file():
                animate_case(pipeline, case, results / case.name, variant, args)
        found[run] = measure(results, truth, args.work / "evaluation" / kind / variant, args)
        print(run, found[run])
        figures = json.loads(args.figures.read_text(encoding="utf-8")) if args.figures.is_file() else {}
        args.figures.write_text(json.dumps(figures | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
