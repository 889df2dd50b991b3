"""Groups of flags that several scripts share; each flag is named as the setting that it fills."""

import argparse

from DWPose.alignment import ALIGNMENTS
from DWPose.drawing import SHORT_SIDE
from DWPose.smoothing import MISSING

CROP_MARGIN = 8  # latents, 64 pixels


def add_weights(parser: argparse.ArgumentParser):
    """Where the networks of an animation are; returns the group."""
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--pretrained_model_name_or_path",
        metavar="DIR",
        help="Stable Video Diffusion's diffusers folder, or a hub name that is already in the cache",
    )
    weights.add_argument("--revision", help="revision of a hub name; means nothing for a folder")
    for flag, name in (("unet", "unet"), ("posenet", "pose_net"), ("face_encoder", "face_encoder")):
        weights.add_argument(
            f"--{flag}_model_name_or_path", metavar="FILE", help=f"{name} weights, .pth or .safetensors"
        )
    weights.add_argument(
        "--face_models", metavar="DIR", help="insightface's antelopev2, needed unless --face_embedding is given"
    )
    weights.add_argument(
        "--dwpose_models", metavar="DIR", help="DWPose's networks, which find the faces that insightface's do not"
    )
    weights.add_argument(
        "--face_channel_order",
        choices=("rgb", "bgr"),
        help="what the face model is handed: left out, what the checkpoint says, else rgb, which the "
        "released weights were trained with",
    )
    weights.add_argument(
        "--vae", metavar="DIR", help="decode with this VAE folder instead, such as TAESD (AutoencoderTiny) for previews"
    )
    return weights


def add_sampling(parser: argparse.ArgumentParser):
    """How the latents are sampled; returns the group."""
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--num_inference_steps", type=int, help="denoising steps")
    sampling.add_argument(
        "--guidance_scale", type=float, help="how strongly the conditions are followed; 1 or less is twice as fast"
    )
    sampling.add_argument(
        "--min_guidance_scale",
        type=float,
        help="guidance of the first frame, growing to --guidance_scale at the last; left out, the same for all",
    )
    sampling.add_argument("--tile_size", type=int, help="frames that the UNet sees at once")
    sampling.add_argument("--noise_aug_strength", type=float, help="noise added to the photo")
    sampling.add_argument("--motion_bucket_id", type=float, help="amount of motion that the model is told")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same frames")
    return sampling


def add_levers(parser: argparse.ArgumentParser):
    """What trades time for memory; returns the group."""
    levers = parser.add_argument_group("speed and memory (the README's table says what each costs)")
    levers.add_argument("--device", help="auto, cuda, cuda:N, mps or cpu")
    levers.add_argument("--dtype", choices=("auto", "fp16", "bf16", "fp32"), help="auto: fp16 on CUDA, else fp32")
    levers.add_argument("--decode_chunk_size", type=int, help="frames that are decoded together")
    levers.add_argument("--cfg_batch", choices=("auto", "1", "2"), help="guidance branches that run in one batch")
    levers.add_argument(
        "--offload",
        choices=("none", "model", "sequential"),
        help="keep the models in host memory and move one model, or one layer, at a time to the GPU",
    )
    levers.add_argument("--vae_device", choices=("same", "cpu"), help="where to encode and decode")
    levers.add_argument("--attention", choices=("sdpa", "xformers"), help="kernels of self-attention")
    levers.add_argument("--compile", action="store_true", help="compile the UNet first, which takes minutes")
    return levers


def add_face_optimization(faces) -> None:
    """How faces are optimised, to a group."""
    faces.add_argument("--num_optimization_iter", type=int, help="gradient steps at each refined step")
    faces.add_argument("--start_refine_step", type=int, help="the first denoising step that is refined, from 0")
    faces.add_argument("--end_refine_step", type=int, help="the last one, itself included")
    faces.add_argument(
        "--hjb_crop",
        type=int,
        nargs="?",
        const=CROP_MARGIN,
        metavar="MARGIN",
        help="decode only the latents around the faces, with so many (8 pixels each; without a number "
        f"{CROP_MARGIN}) on each side: less time and memory, approximate",
    )


def add_skeletons(parser: argparse.ArgumentParser):
    """How skeletons are chosen, fitted to the photo and drawn; returns the group."""
    skeletons = parser.add_argument_group("skeletons")
    skeletons.add_argument(
        "--alignment",
        choices=ALIGNMENTS,
        help="affine: one scale and offset an axis, corrected for the driver's aspect ratio; affine_legacy: the "
        "released formula, uncorrected; limb: the photo's own bone lengths with the driver's joint angles; none",
    )
    skeletons.add_argument(
        "--person",
        metavar="{track,largest,N,all}",
        help="track: the one who fills most of the picture, followed through the video; largest of each frame; N: that "
        "one from the left, from 0, followed; all: everyone is drawn",
    )
    skeletons.add_argument(
        "--missing",
        choices=MISSING,
        help="what to draw where nobody is found: between the frames around, the frame before, or nothing",
    )
    skeletons.add_argument("--smooth", action="store_true", help="smooth trembling key points (One-Euro filter)")
    skeletons.add_argument("--confidence", type=float, help="key points with larger scores are visible")
    skeletons.add_argument(
        "--canvas",
        type=int,
        metavar="PIXELS",
        help="short side of what skeletons are drawn on before they are resized; strokes are so many of its pixels "
        f"wide, so that models which work at small sizes want a smaller one; left out, {SHORT_SIDE}, as the released "
        "weights were trained with",
    )
    return skeletons
