"""A small checkpoint in the released layout with random weights, and a case to run it on, both from a seed.

    python -m tests.synthetic FOLDER

writes FOLDER/checkpoints (SVD, Animation) and FOLDER/case (reference.png, reference_mask.png, poses, faces,
face_embedding.npy). It shows that
everything works together; its videos are noise.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from animation.modules.arcface import ArcFace
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from recipes.animation import SCHEDULER as SCHEDULER_CONFIG

SVD_FOLDER = "stable-video-diffusion-img2vid-xt"
WIDTH = 64  # of tokens, small as everything here
HEAD = 0.35, 0.1, 0.65, 0.32  # of the figure: left, top, right, bottom in shares of the picture
UNET_CONFIG = {
    "block_out_channels": (32, 32, 64, 64),
    "num_attention_heads": (2, 2, 4, 4),
    "cross_attention_dim": WIDTH,
    "layers_per_block": 1,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "num_frames": 6,
}


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Replace what initialisation sets to zero, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name == "scale":
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
        else:
            parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
    return model.eval().requires_grad_(False)


def tiny_components(seed: int = 0) -> dict[str, torch.nn.Module]:
    """The networks of a small pipeline, by name, in float32."""
    face_encoder = FaceEncoder(hidden_dim=128, dim=WIDTH, image_dim=WIDTH, heads=1, feed_forward_dim=128, layers=2)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
    )
    clip_config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=56,
        projection_dim=WIDTH,
    )
    models = {
        "unet": PoseGuidedUNet(**UNET_CONFIG),
        "pose_net": PoseNet(out_channels=UNET_CONFIG["block_out_channels"][0]),
        "face_encoder": face_encoder,
        "vae": vae,
        "image_encoder": CLIPVisionModelWithProjection(clip_config),
    }
    return {name: randomise(model, seed + i) for i, (name, model) in enumerate(models.items())}


def tiny_arcface(seed: int = 0) -> ArcFace:
    """A small face recogniser."""
    arcface = randomise(ArcFace(widths=(8, 8, 16, 16, 32), depths=(1, 2, 2, 1)), seed)
    for name, parameter in arcface.named_parameters():
        if name.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight", "features.weight")):
            parameter += 1
    return arcface


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write `Animation/` and `SVD/` as the released files lie, and return `folder`."""
    models = tiny_components(seed)
    animation, svd = folder / "Animation", folder / "SVD" / SVD_FOLDER
    animation.mkdir(parents=True, exist_ok=True)
    for name in ("unet", "pose_net", "face_encoder"):
        torch.save(models[name].state_dict(), animation / f"{name}.pth")
    torch.save(tiny_arcface(seed).state_dict(), animation / "glintr100_torch.pth")
    for name, stem in (("vae", "diffusion_pytorch_model"), ("image_encoder", "model")):
        (svd / name).mkdir(parents=True, exist_ok=True)
        save_file(models[name].state_dict(), svd / name / f"{stem}.safetensors")
    models["vae"].save_config(svd / "vae")
    models["image_encoder"].config.save_pretrained(svd / "image_encoder")
    models["unet"].save_config(svd / "unet")
    EulerDiscreteScheduler(**SCHEDULER_CONFIG).save_pretrained(svd / "scheduler")
    CLIPImageProcessorPil(size={"shortest_edge": 224}).save_pretrained(svd / "feature_extractor")
    (svd / "model_index.json").write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    return folder


def draw_person(size: tuple[int, int], swing: float, skeleton: bool) -> Image.Image:
    """A figure of lines whose arms stand at `swing` radians: coloured limbs on black, or plain on a background."""
    width, height = size
    image = Image.new("RGB", size, "black" if skeleton else (200, 210, 220))
    draw = ImageDraw.Draw(image)
    colours = ("red", "orange", "green", "cyan", "blue", "magenta") if skeleton else ("saddlebrown",) * 6

    def point(x: float, y: float) -> tuple[float, float]:
        return x * width, y * height

    neck, hip = point(0.5, 0.35), point(0.5, 0.6)
    ends = [point(0.5 + side * 0.25 * math.cos(swing), 0.4 + 0.2 * math.sin(swing)) for side in (-1, 1)]
    feet = [point(0.5 + side * 0.12, 0.92) for side in (-1, 1)]
    lines = [(neck, hip), *((neck, end) for end in ends), *((hip, foot) for foot in feet)]
    for (start, end), colour in zip(lines, colours, strict=False):
        draw.line([start, end], colour, width=max(2, width // 24))
    draw.ellipse([*point(*HEAD[:2]), *point(*HEAD[2:])], colours[-1] if skeleton else "peachpuff")
    return image


def draw_face_mask(size: tuple[int, int]) -> Image.Image:
    """White where the figure's head is, on black."""
    width, height = size
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle([HEAD[0] * width, HEAD[1] * height, HEAD[2] * width, HEAD[3] * height], 255)
    return mask


def write_case(folder: Path, size: tuple[int, int] = (64, 128), num_frames: int = 8, seed: int = 0) -> Path:
    """Write a photo, skeletons of a swinging figure, masks of both's faces and a face embedding.

    Args:
        size: width and height, pixels.
    """
    for name in ("poses", "faces"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    draw_person(size, 0.5, skeleton=False).save(folder / "reference.png")
    draw_face_mask(size).save(folder / "reference_mask.png")
    for i in range(num_frames):
        draw_person(size, math.sin(2 * math.pi * i / num_frames), skeleton=True).save(
            folder / "poses" / f"frame_{i}.png"
        )
        draw_face_mask(size).save(folder / "faces" / f"frame_{i}.png")
    np.save(folder / "face_embedding.npy", np.random.default_rng(seed).standard_normal(512).astype(np.float32))
    return folder


def write_clips(
    folder: Path, num_clips: int = 3, size: tuple[int, int] = (64, 64), num_frames: int = 12, first: int = 1
) -> list[Path]:
    """Write clips as training reads them: `folder`/00001/{images,poses,faces}/frame_%d.png; size is (width, height)."""
    clips = []
    for clip in range(first, first + num_clips):
        path = folder / f"{clip:05d}"
        for name in ("images", "poses", "faces"):
            (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(num_frames):
            swing = math.sin(2 * math.pi * (i + 3 * clip) / num_frames)
            draw_person(size, swing, skeleton=False).save(path / "images" / f"frame_{i}.png")
            draw_person(size, swing, skeleton=True).save(path / "poses" / f"frame_{i}.png")
            mask = Image.new("L", size)
            box = [(0.4 * size[0], 0.12 * size[1]), (0.6 * size[0], 0.32 * size[1])]
            ImageDraw.Draw(mask).rectangle(box, 255)
            mask.save(path / "faces" / f"frame_{i}.png")
        clips.append(path)
    return clips


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]) / "checkpoints")
    write_case(Path(sys.argv[1]) / "case")
