"""The settings of a training run, checked at the edge. Imports no torch, so that bad input is answered at once."""

import logging
import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from animation.errors import InputError
from animation.face.detection import find_face_models
from animation.media.images import FrameFolder, load_photo
from animation.media.writing import check_writable
from animation.settings import SEED
from animation.training.check import check_data, check_share
from animation.training.clips import RELEASED_BUCKETS, Bucket, parse_bucket, read_buckets

logger = logging.getLogger(__name__)

LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "comet_ml": "comet_ml"}  # by name: the package it needs
# Flags of the original that have nothing to do here, and why.
RETIRED = {
    "enable_xformers_memory_efficient_attention": "torch's own attention kernels are used",
    "push_to_hub": "nothing here contacts the web; upload the checkpoint folder yourself",
    "hub_token": "nothing here contacts the web",
    "hub_model_id": "nothing here contacts the web",
    "non_ema_revision": "only local files are read",
    "local_rank": "accelerate tells each process its rank",
    "num_validation_images": "one video is made of the validation case",
    "log_trainable_parameters": "their number stands in the log",
}


@dataclass(kw_only=True)
class TrainingSettings:
    """A training's settings, named as the flags of `train.py`, whose help explains them."""

    output_dir: str
    pretrained_model_name_or_path: str = "checkpoints/SVD/stable-video-diffusion-img2vid-xt"
    revision: str | None = None
    finetune_mode: bool = False
    posenet_model_finetune_path: str = "checkpoints/Animation/pose_net.pth"
    face_encoder_finetune_path: str = "checkpoints/Animation/face_encoder.pth"
    unet_model_finetune_path: str = "checkpoints/Animation/unet.pth"
    trainable: str = "method"
    lora_rank: int = 0
    lora_alpha: float | None = None
    face_models: str = "models/antelopev2"
    face_channel_order: str | None = None

    data_root_path: str | None = None
    rec_data_path: str | None = None
    vec_data_path: str | None = None
    data_path: str | None = None
    dataset_width: int = 512
    dataset_height: int = 512
    bucket: list[str] = field(default_factory=list)
    sample_n_frames: int = 16
    sample_stride: int = 4
    num_workers: int = 8
    max_bad_clips: float = 0.05
    check_data: bool = False
    cache_dir: str | None = None
    cache_latents: bool = False

    per_gpu_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    num_train_epochs: int = 100
    max_train_steps: int | None = None
    learning_rate: float = 1e-5
    scale_lr: bool = False
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 500
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    use_8bit_adam: bool = False
    use_ema: bool = False
    conditioning_dropout_prob: float = 0.1
    noise_d_low: int = 32
    noise_d_high: int = 64
    seed: int = SEED
    overfit: bool = False

    mixed_precision: str | None = None
    gradient_checkpointing: bool = False
    allow_tf32: bool = False
    cpu: bool = False

    checkpointing_steps: int = 2000
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    validation_steps: int = 500
    validation_image: str | None = None
    validation_control_folder: str | None = None
    validation_image_folder: str | None = None
    validation_inference_steps: int = 25
    validation_guidance_scale: float = 3.0
    report_to: str = "tensorboard"
    logging_dir: str = "logs"

    def check_ranges(self) -> None:
        """Raise InputError for a setting out of its range."""
        least = {
            "lora_rank": 0,
            "sample_n_frames": 1,
            "sample_stride": 1,
            "num_workers": 0,
            "max_bad_clips": 0,
            "per_gpu_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 1,
            "max_train_steps": 1,
            "learning_rate": 0,
            "lr_warmup_steps": 0,
            "adam_beta1": 0,
            "adam_beta2": 0,
            "adam_weight_decay": 0,
            "adam_epsilon": 0,
            "max_grad_norm": 0,
            "conditioning_dropout_prob": 0,
            "noise_d_low": 1,
            "noise_d_high": 1,
            "seed": 0,
            "checkpointing_steps": 1,
            "checkpoints_total_limit": 1,
            "validation_steps": 1,
            "validation_inference_steps": 1,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not (value >= minimum and math.isfinite(value)):
                raise InputError(f"--{name} {value} is not a number of {minimum} or more")
        if self.seed >= 2**32:
            raise InputError(f"--seed {self.seed} is above 2³² − 1; give a smaller number")
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise InputError(f"--lora_alpha {self.lora_alpha} is not a number above 0")
        if not math.isfinite(self.validation_guidance_scale):
            raise InputError(f"--validation_guidance_scale {self.validation_guidance_scale} is not a finite number")
        below_one = 0.9999999
        most = {
            "max_bad_clips": 1,
            "adam_beta1": below_one,
            "adam_beta2": below_one,
            "conditioning_dropout_prob": 1 / 3,
        }
        for name, maximum in most.items():
            if getattr(self, name) > maximum:
                raise InputError(f"--{name} {getattr(self, name)} is above {maximum:g}; give a smaller number")
        choices = {
            "trainable": ("method", "all"),
            "lr_scheduler": LR_SCHEDULES,
            "mixed_precision": (None, "no", "fp16", "bf16"),
            "report_to": ("none", "all", *TRACKERS),
            "face_channel_order": (None, "rgb", "bgr"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise InputError(f"--{name} {getattr(self, name)}: unknown; use one of {listed}")
        if self.lora_rank and not self.finetune_mode:
            raise InputError(
                "--lora_rank trains small adapters of a finished checkpoint and nothing else; add --finetune_mode"
            )
        if self.lora_rank and self.trainable == "all":
            raise InputError("--lora_rank trains adapters alone, --trainable all every part; leave one of them out")

    def check_packages(self) -> None:
        """Raise InputError for a setting whose package is not installed."""
        if self.report_to in TRACKERS and find_spec(TRACKERS[self.report_to]) is None:
            raise InputError(
                f"--report_to {self.report_to}: the package {TRACKERS[self.report_to]} is not installed; install it, "
                "or use --report_to none"
            )
        if self.use_8bit_adam and find_spec("bitsandbytes") is None:
            raise InputError(
                "--use_8bit_adam: the package bitsandbytes is not installed; install it (requirements-gpu.txt) or "
                "leave the flag out"
            )
        if self.lora_rank and find_spec("peft") is None:
            raise InputError("--lora_rank: the package peft is not installed; install requirements.txt")

    def read_data(self) -> list[Bucket]:
        """The clips by size. Raises InputError where a list cannot be read or too many of its folders are missing."""
        lists = [
            (*RELEASED_BUCKETS[name], getattr(self, f"{name}_data_path"))
            for name in RELEASED_BUCKETS
            if getattr(self, f"{name}_data_path") is not None
        ]
        if self.data_path is not None:
            lists.append((self.dataset_width, self.dataset_height, self.data_path))
        lists += [parse_bucket(text) for text in self.bucket]
        buckets = read_buckets(lists, self.data_root_path)
        clips = [clip for bucket in buckets for clip in bucket.clips]
        missing = {str(clip): "no such folder" for clip in clips if not clip.is_dir()}
        check_share(missing, len(clips), self.max_bad_clips)
        return buckets

    def describe_data(self) -> str:
        """What reading all the data finds. Raises InputError where too many clips cannot be used."""
        self.check_ranges()
        return check_data(self.read_data(), self.sample_n_frames, self.max_bad_clips, self.num_workers)

    def read_inputs(self) -> list[Bucket]:
        """Check everything that can be checked without loading a model; return the clips by size.

        Raises:
            InputError: a setting is out of range, data or a package is missing, or the output is not writable.
        """
        self.check_ranges()
        self.check_packages()
        buckets = self.read_data()
        find_face_models(self.face_models)
        if (self.validation_image is None) != (self.validation_control_folder is None):
            raise InputError("--validation_image and --validation_control_folder go together; give both or none")
        if self.validation_image_folder is not None and self.validation_image is None:
            raise InputError("--validation_image_folder holds the true frames of --validation_image; give that too")
        if self.validation_image is not None:
            load_photo(self.validation_image)
            FrameFolder(self.validation_control_folder)
        if self.validation_image_folder is not None:
            FrameFolder(self.validation_image_folder)
        output_dir = Path(self.output_dir)
        for folder in (output_dir, output_dir / self.logging_dir, *([Path(self.cache_dir)] if self.cache_dir else [])):
            check_writable(folder)
        earlier = sorted(path.name for path in output_dir.glob("checkpoint-*") if path.name[11:].isdecimal())
        if earlier and self.resume_from_checkpoint is None:
            raise InputError(
                f"{output_dir}: holds {earlier[-1]} of an earlier run, which this one would mix with; add "
                "--resume_from_checkpoint latest, or give another --output_dir"
            )
        return buckets
