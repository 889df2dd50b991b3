"""The settings of a VAE's training, checked at the edge. Imports no torch, so that bad input is answered at once."""

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from animation.errors import InputError
from animation.media.images import check_size, list_frames
from animation.media.writing import check_writable
from animation.settings import SEED
from animation.training.clips import read_clip_list


@dataclass(kw_only=True)
class VaeSettings:
    """A training's settings, named as the flags of `train_vae.py`, whose help explains them."""

    output_dir: str
    vae: str
    data_path: str | None = None
    frames: list[str] = field(default_factory=list)
    teacher: str | None = None
    width: int = 512
    height: int = 512
    sample_n_frames: int = 8
    kl_weight: float = 1e-6
    per_gpu_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 10000
    learning_rate: float = 1e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    use_8bit_adam: bool = False
    allow_tf32: bool = False
    mixed_precision: str | None = None
    num_workers: int = 8
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    report_to: str = "none"
    logging_dir: str = "logs"
    seed: int = SEED
    cpu: bool = False

    def read_inputs(self) -> list[list[Path]]:
        """Check everything that can be checked without loading a model; return the frames of each clip.

        Raises:
            InputError: a setting is out of range, data is missing or too short, or the output is not writable.
        """
        check_size(self.height, self.width)
        least = {
            "sample_n_frames": 1,
            "kl_weight": 0,
            "per_gpu_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "max_train_steps": 1,
            "learning_rate": 0,
            "max_grad_norm": 0,
            "num_workers": 0,
            "checkpointing_steps": 1,
            "checkpoints_total_limit": 1,
            "seed": 0,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not (value >= minimum and math.isfinite(value)):
                raise InputError(f"--{name} {value} is not a number of {minimum} or more")
        if self.report_to != "none" and find_spec(self.report_to) is None:
            raise InputError(f"--report_to {self.report_to}: this package is not installed; use --report_to none")
        if not (Path(self.vae) / "config.json").is_file():
            raise InputError(f"--vae {self.vae}: no config.json there; give a VAE folder, with weights or without")
        folders = [Path(folder) for folder in self.frames]
        folders += read_clip_list(self.data_path) if self.data_path is not None else []
        if not folders:
            raise InputError("no data; give --frames or --data_path")
        clips = [list_frames(folder / "images" if (folder / "images").is_dir() else folder) for folder in folders]
        for folder, clip in zip(folders, clips, strict=True):
            if len(clip) < self.sample_n_frames:
                raise InputError(
                    f"{folder}: {len(clip)} frames, fewer than --sample_n_frames {self.sample_n_frames}; leave it out"
                )
        check_writable(Path(self.output_dir))
        return clips
