"""The settings of an inference run, checked at the edge. Imports no torch, so that bad input is answered at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.face.detection import find_face_models
from animation.face.embedding import load_face_embedding
from animation.frames import FrameFolder, check_size, load_photo
from animation.writing import check_writable

SEED = 23123134
CONDITIONED_FPS = 7  # what the model was trained to be told, whatever the written video's rate


@dataclass
class Inputs:
    """What a run reads before any model: the photo, the poses, and the face embedding (None: to be computed)."""

    photo: Image.Image
    poses: FrameFolder
    face_embedding: np.ndarray | None


@dataclass(kw_only=True)
class SamplingSettings:
    """What any run of the model needs to know: where the networks are, how to sample, and what trades time for memory.

    Named as flags, whose help explains them.
    """

    face_embedding: str | None = None
    face: int | None = None

    pretrained_model_name_or_path: str = "checkpoints/SVD/stable-video-diffusion-img2vid-xt"
    revision: str | None = None
    unet_model_name_or_path: str = "checkpoints/Animation/unet.pth"
    posenet_model_name_or_path: str = "checkpoints/Animation/pose_net.pth"
    face_encoder_model_name_or_path: str = "checkpoints/Animation/face_encoder.pth"
    face_models: str = "models/antelopev2"
    dwpose_models: str = "checkpoints/DWPose"
    face_channel_order: str | None = None
    vae: str | None = None

    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    min_guidance_scale: float | None = None
    tile_size: int = 16
    frames_overlap: int = 4
    noise_aug_strength: float = 0.02
    motion_bucket_id: float = 127
    seed: int = SEED

    device: str = "auto"
    dtype: str = "auto"
    decode_chunk_size: int = 4
    cfg_batch: str = "auto"
    offload: str = "none"
    vae_device: str = "same"
    attention: str = "sdpa"
    compile: bool = False


@dataclass(kw_only=True)
class InferenceSettings(SamplingSettings):
    """A run's settings, named as the flags of `inference_basic.py`, whose help explains them."""

    validation_image: str
    validation_control_folder: str
    output_dir: str
    max_frames: int | None = None
    fps: float = 7
    no_gif: bool = False
    no_png: bool = False

    height: int = 1024
    width: int = 576
    overlap: int | None = None
    gradient_checkpointing: bool = False

    def check_ranges(self) -> None:
        """Raise InputError for a number out of its range."""
        check_size(self.height, self.width)
        least = {
            "num_inference_steps": 1,
            "tile_size": 2,
            "frames_overlap": 0,
            "decode_chunk_size": 1,
            "noise_aug_strength": 0,
            "max_frames": 1,
            "seed": 0,
            "face": 0,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise InputError(f"--{name} {value} is below {minimum}; give {minimum} or more")
        if self.seed >= 2**63:
            raise InputError(f"--seed {self.seed} is above 2⁶³ − 1; give a smaller number")
        if self.frames_overlap >= self.tile_size:
            raise InputError(
                f"--frames_overlap {self.frames_overlap} is not below --tile_size {self.tile_size}; give at most "
                f"{self.tile_size - 1}"
            )
        for name in ("fps", "guidance_scale", "min_guidance_scale", "motion_bucket_id"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise InputError(f"--{name} {value} is not a finite number")
        if not 0 < self.fps <= 240:
            raise InputError(f"--fps {self.fps} is out of range; give more than 0 and at most 240")

    def memory_remedies(self) -> list[str]:
        """What would lower the memory need of this kind of run alone, as flags; the general ones are the runtime's."""
        return []

    def read_inputs(self) -> Inputs:
        """Check everything that can be checked without loading a model, and read the inputs.

        Raises:
            InputError: a setting is out of range, an input is missing or unreadable, or the output not writable.
        """
        self.check_ranges()
        photo = load_photo(self.validation_image)
        poses = FrameFolder(self.validation_control_folder, self.max_frames)
        embedding = None
        if self.face_embedding is not None:
            embedding = load_face_embedding(self.face_embedding)
        else:
            try:
                find_face_models(self.face_models)
            except InputError as error:
                raise InputError(f"{error}, or give a stored vector with --face_embedding") from None
        check_writable(Path(self.output_dir))
        poses.warn_if_stretched(self.height, self.width)
        return Inputs(photo, poses, embedding)
