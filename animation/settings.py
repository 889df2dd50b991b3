"""The settings of an animation, declared once as flags. Imports no torch, so that bad input is answered at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.face.detection import FaceModels, find_face_models
from animation.face.embedding import load_face_embedding
from animation.flags import FILES, FRAMES, NOTHING, Settings, flag
from animation.media.images import FrameFolder, check_size, load_photo, warn_if_stretched
from animation.media.writing import FRAMES_FOLDER, PARTIAL_FOLDER, check_writable
from animation.networks import ANEW, Networks
from animation.parallel import Processes

SEED = 23123134
CONDITIONED_FPS = 7  # what the model was trained to be told, whatever the written video's rate
LARGEST_FPS = 240
LARGEST_SEED = 2**63 - 1
NOISES = ("repeat", "fresh")
SCHEDULES = ("karras", "ays")
WINDOWS = ("overlapping", "shifted")
CHANNEL_ORDERS = ("rgb", "bgr")


@dataclass
class Person:
    """Who is animated.

    Attributes:
        photo: RGB, upright.
        face_photo: the picture that the face is taken from; None: the photo.
        face_embedding: 512 numbers; None: to be computed.
    """

    photo: Image.Image
    face_photo: Image.Image | None
    face_embedding: np.ndarray | None


@dataclass
class Inputs(Person):
    """What a run reads before any model: the person and the skeletons."""

    poses: FrameFolder


@dataclass(kw_only=True)
class Weights(FaceModels):
    """Where the networks of an animation are; None is filled in by `animation.weights.layout.fill_in`."""

    TITLE: ClassVar = FaceModels.TITLE

    pretrained_model_name_or_path: str | None = flag(
        None,
        "Stable Video Diffusion's diffusers folder, or a hub name that is already in the cache",
        metavar="DIR",
        affects=NOTHING,
    )
    revision: str | None = flag(None, "revision of a hub name; means nothing for a folder", affects=NOTHING)
    unet_model_name_or_path: str | None = flag(
        None, "unet weights, .pth or .safetensors", metavar="FILE", affects=NOTHING
    )
    posenet_model_name_or_path: str | None = flag(
        None, "pose_net weights, .pth or .safetensors", metavar="FILE", affects=NOTHING
    )
    face_encoder_model_name_or_path: str | None = flag(
        None, "face_encoder weights, .pth or .safetensors", metavar="FILE", affects=NOTHING
    )
    face_channel_order: str | None = flag(
        None,
        "what the face model is handed: left out, what the checkpoint says, else rgb, which the released weights were "
        "trained with",
        choices=CHANNEL_ORDERS,
    )
    vae: str | None = flag(
        None,
        "decode with this VAE folder instead, such as TAESD (AutoencoderTiny) for previews",
        metavar="DIR",
        affects=FRAMES,
    )


@dataclass(kw_only=True)
class Sampling(Settings):
    """How the latents are sampled; None is filled in by `animation.weights.layout.fill_in`."""

    TITLE: ClassVar = "sampling"
    RETIRED: ClassVar = {
        "overlap": "see --frames_overlap",
        "gradient_checkpointing": "gradients, where there are any, are always checkpointed",
    }

    num_inference_steps: int | None = flag(
        None, "denoising steps; left out, 25, or what the small checkpoint recommends", least=1
    )
    guidance_scale: float | None = flag(
        None,
        "how strongly the conditions are followed; 1 or less is twice as fast; left out, 3, or what the small "
        "checkpoint recommends",
    )
    min_guidance_scale: float | None = flag(
        None, "guidance of the first frame, growing to --guidance_scale at the last; left out, the same for all"
    )
    tile_size: int = flag(16, "frames that the UNet sees at once", least=2)
    frames_overlap: int = flag(4, "frames that neighbouring windows share", least=0)
    noise_aug_strength: float = flag(0.02, "noise added to the photo", least=0)
    motion_bucket_id: float = flag(127.0, "amount of motion that the model is told")
    schedule: str = flag("karras", "noise levels: SVD's own, or Align Your Steps' for few steps", choices=SCHEDULES)
    guidance_interval: list[float] | None = flag(
        None,
        "lowest and highest noise level with guidance, such as 0.5 20; half the work outside; left out, all",
        metavar="SIGMA",
    )
    windows: str = flag(
        "overlapping", "as --frames_overlap says, or without overlap and shifted from step to step", choices=WINDOWS
    )
    cache: int = flag(1, "run the UNet's deep layers at every Nth step only; 1: at each", least=1)
    noise: str = flag("repeat", "initial noise: one window's, repeated, or fresh for each", choices=NOISES)
    seed: int = flag(SEED, "the same seed gives the same frames", least=0, most=LARGEST_SEED)
    face: int | None = flag(
        None, "which of several faces in the photo, from the left and from 0; left out, the largest", least=0
    )
    face_photo: str | None = flag(
        None,
        "another picture of the same person, whose largest face is kept in place of the photo's: for a photo that "
        "shows the face small, turned away or in shadow",
        metavar="FILE",
        affects=NOTHING,
    )
    face_embedding: str | None = flag(
        None,
        "a stored vector of 512 numbers; left out, it is computed from --face_photo or the photo",
        metavar="FILE.npy",
        affects=NOTHING,
    )

    @property
    def guided(self) -> bool:
        """Whether any frame's guidance scale is above 1, so that there is an unconditional branch."""
        return max(self.guidance_scale or 0, self.min_guidance_scale or 0) > 1

    def read_face(self, models_folder: str | Path) -> tuple[Image.Image | None, np.ndarray | None]:
        """What `Person` has as `face_photo` and `face_embedding`.

        Raises:
            InputError: one of them cannot be read, or the models that would make the embedding are not there.
        """
        face_photo = None if self.face_photo is None else load_photo(self.face_photo)
        if self.face_embedding is not None:
            return face_photo, load_face_embedding(self.face_embedding)
        try:
            find_face_models(models_folder)
        except InputError as error:
            raise InputError(f"{error}, or give a stored vector with --face_embedding") from None
        return face_photo, None

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        super().check()
        if self.frames_overlap is not None and self.frames_overlap >= self.tile_size:
            raise InputError(
                f"--frames_overlap {self.frames_overlap} is not below --tile_size {self.tile_size}; give at most "
                f"{self.tile_size - 1}"
            )
        interval = self.guidance_interval
        if interval is not None and (len(interval) != 2 or not interval[0] < interval[1]):
            raise InputError(
                f"--guidance_interval {' '.join(map(str, interval))}: give two noise levels, the lower one first"
            )
        if self.cache > 1 and (count := Processes.of_environment().count) > 1:
            raise InputError(f"--cache {self.cache}: not with {count} processes for one clip; leave it out")


@dataclass(kw_only=True)
class Levers(Settings):
    """What trades time for memory."""

    TITLE: ClassVar = "speed and memory (docs/performance.md says what each costs)"

    device: str = flag("auto", "auto, cuda, cuda:N, mps or cpu")
    dtype: str = flag(
        "auto",
        "auto: fp16 on CUDA, else fp32; animate.py takes bf16 on a CPU that has instructions for it",
        choices=("auto", "fp16", "bf16", "fp32"),
    )
    decode_chunk_size: int = flag(4, "frames that are decoded together", least=1, affects=FRAMES)
    cfg_batch: str = flag("auto", "guidance branches that run in one batch", choices=("auto", "1", "2"))
    offload: str = flag(
        "none",
        "keep the models in host memory and move one model, or one layer, at a time to the GPU",
        choices=("none", "model", "sequential"),
    )
    vae_device: str = flag("same", "where to encode and decode", choices=("same", "cpu"))
    attention: str = flag("sdpa", "kernels of self-attention", choices=("sdpa", "xformers"))
    quantize: str = flag(
        "none", "store the weights of the UNet's linear layers in eight bits", choices=("none", "int8", "fp8")
    )
    compile: bool = flag(False, "compile the UNet's blocks, which takes minutes once")

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        super().check()
        if self.quantize != "none" and self.offload == "sequential":
            raise InputError(
                f"--quantize {self.quantize} with --offload sequential: quantised layers do not move one by one; give "
                "--offload model"
            )


@dataclass(kw_only=True)
class InferenceSettings(Weights, Sampling, Levers):
    """A run's settings, named as the flags of `inference_basic.py`, whose help explains them."""

    validation_image: str = flag(help="the photo of the person", metavar="FILE")
    validation_control_folder: str = flag(
        help="skeleton images, PNG or JPEG, in the order of the numbers in their names", metavar="DIR"
    )
    output_dir: str = flag(help="where the results go; made where missing", metavar="DIR")
    max_frames: int | None = flag(None, "animate the first N poses; left out, all", least=1, metavar="N")
    fps: float = flag(7.0, "frames a second of the written video", above=0, most=LARGEST_FPS, affects=FILES)
    no_gif: bool = flag(False, "do not write animated_images.gif", affects=FILES)
    no_png: bool = flag(False, "do not write animated_images/", affects=FILES)
    height: int | None = flag(None, "pixels, a multiple of 64; left out, what the checkpoint was trained for, 1024")
    width: int | None = flag(None, "pixels, a multiple of 64; left out, what the checkpoint was trained for, 576")

    def check(self) -> None:
        """Raise InputError for a setting that makes no sense."""
        super().check()
        check_size(self.height, self.width)

    def memory_remedies(self) -> list[str]:
        """What would lower the memory need of this kind of run alone, as flags; the general ones are the runtime's."""
        return []

    def read_inputs(self, networks: Networks = ANEW) -> Inputs:
        """Check everything that can be checked without loading a model, and read the inputs.

        Args:
            networks: that are open already, for a kind of run that has to find faces first.

        Raises:
            InputError: a setting is out of range, an input is missing or unreadable, or the output not writable.
        """
        self.check()
        photo = load_photo(self.validation_image)
        poses = FrameFolder(self.validation_control_folder, self.max_frames)
        face = self.read_face(self.face_models)
        check_writable(Path(self.output_dir), FRAMES_FOLDER, PARTIAL_FOLDER)
        size = self.width, self.height
        warn_if_stretched("poses", poses.sizes, size, "extract them at the output's aspect ratio, or they may not fit")
        warn_if_stretched(
            "a photo",
            [photo.size],
            size,
            "crop it to this shape, give --width and --height of its own, or use animate.py, whose --fit crops or pads",
        )
        return Inputs(photo, *face, poses)
