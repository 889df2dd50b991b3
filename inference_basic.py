"""Animate a photo with a folder of skeleton images.

    python inference_basic.py --validation_image photo.png --validation_control_folder poses --output_dir output

Writes animated_images/frame_0.png …, animated_images.gif, animation.mp4 and run.json to the output folder.
"""

import argparse

from animation import cli
from animation.settings import InferenceSettings


def build_parser(description: str = __doc__, settings: type[InferenceSettings] = InferenceSettings):
    """The released script's flags by their names and meanings, and ours, with the defaults of a settings class."""
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument("--validation_image", required=True, metavar="FILE", help="the photo of the person")
    inputs.add_argument(
        "--validation_control_folder",
        required=True,
        metavar="DIR",
        help="skeleton images, PNG or JPEG, in the order of the numbers in their names",
    )
    inputs.add_argument("--output_dir", required=True, metavar="DIR", help="where the results go; made where missing")
    inputs.add_argument(
        "--face_embedding",
        metavar="FILE.npy",
        help="a stored vector of 512 numbers; left out, it is computed from the photo",
    )
    inputs.add_argument(
        "--face",
        type=int,
        metavar="N",
        help="which of several faces in the photo, from the left and from 0; left out, the largest",
    )
    inputs.add_argument("--max_frames", type=int, metavar="N", help="animate the first N poses; left out, all")
    inputs.add_argument("--fps", type=float, help="frames a second of the written video")
    inputs.add_argument("--no_gif", action="store_true", help="do not write animated_images.gif")
    inputs.add_argument("--no_png", action="store_true", help="do not write animated_images/")

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

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--height", type=int, help="pixels, a multiple of 64")
    sampling.add_argument("--width", type=int, help="pixels, a multiple of 64")
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
    sampling.add_argument("--frames_overlap", type=int, help="frames that neighbouring windows share")
    sampling.add_argument("--noise_aug_strength", type=float, help="noise added to the photo")
    sampling.add_argument("--motion_bucket_id", type=float, help="amount of motion that the model is told")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same frames")
    sampling.add_argument("--overlap", type=int, help="accepted and unused, as ever: see --frames_overlap")
    sampling.add_argument(
        "--gradient_checkpointing",
        action="store_true",
        help="accepted and unused, as ever: gradients, where there are any, are always checkpointed",
    )

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
    cli.use_defaults(parser, settings)
    return parser


def main() -> None:
    """Parse, check, animate."""
    settings = InferenceSettings(**vars(build_parser().parse_args()))
    cli.start_logging()
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.inference import animate

    animate(settings, inputs)


if __name__ == "__main__":
    cli.run(main)
