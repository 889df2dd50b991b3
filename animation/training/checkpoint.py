"""Checkpoints of a training: the three parts in the released layout, and beside them the state to go on from.

    checkpoint-N/   pose_net.pth  face_encoder.pth  unet.pth     plain state dicts, and each as .safetensors
                    checkpoint.json                              the face channel order they were trained with
                    training_state/                              trained parameters, optimizer, averages, position

A checkpoint is written under another name and renamed: it is whole or absent.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from animation.errors import CheckpointError
from animation.files import write_json
from animation.training.settings import checkpoint_folders
from animation.weights.loading import PROPERTIES_FILE
from animation.weights.state_dicts import read_state_dict, write_state_dict

logger = logging.getLogger(__name__)

STATE_FOLDER = "training_state"
STATE_FILE = f"{STATE_FOLDER}/state.json"
SHARDS_FOLDER = f"{STATE_FOLDER}/shards"  # accelerate's own files, where the state is spread over the processes
PARTIAL_SUFFIX = ".partial"


def find_checkpoint(name: str, output_dir: Path) -> Path | None:
    """The checkpoint named by its folder, by its name in the output folder, or as `latest`: None where there is none.

    Raises:
        CheckpointError: there is no such checkpoint, or it has no training state.
    """
    if name == "latest":
        return next(reversed(checkpoint_folders(output_dir)), None)
    for folder in (Path(name), output_dir / name):
        if (folder / STATE_FILE).is_file():
            return folder
    there = ", ".join(path.name for path in checkpoint_folders(output_dir)) or "none"
    raise CheckpointError(
        f"--resume_from_checkpoint {name}: no checkpoint with a {STATE_FOLDER} folder there; in {output_dir} there "
        f"are: {there}; give one of them, or latest"
    )


def finish_checkpoint(partial: Path, limit: int | None, superseded: Path | None = None) -> None:
    """Give a written checkpoint its name, then remove the superseded one, and the oldest above `limit` (None: none)."""
    folder = partial.with_suffix("")
    if folder.exists():
        _remove(folder)
    partial.replace(folder)
    if superseded is not None:
        _remove(superseded)
    for old in checkpoint_folders(folder.parent)[:-limit] if limit is not None else []:
        _remove(old)


def _remove(folder: Path) -> None:
    doomed = folder.with_name(f"{folder.name}.old{PARTIAL_SUFFIX}")
    folder.replace(doomed)  # never a checkpoint with some of its files gone
    shutil.rmtree(doomed)


def write_parts(folder: Path, parts: Mapping[str, dict[str, torch.Tensor]], properties: Mapping[str, Any]) -> None:
    """Write a state dict for each part in the released layout, and the checkpoint's properties as JSON."""
    for name, state in parts.items():
        for suffix in (".pth", ".safetensors"):
            write_state_dict(folder / f"{name}{suffix}", state)
    write_json(folder / PROPERTIES_FILE, properties)


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """One file of a checkpoint's training state. Raises CheckpointError."""
    return read_state_dict(folder / STATE_FOLDER / f"{name}.safetensors")


class TrainingState:
    """What a run needs, beside its step, to go on as if it had never stopped.

    Args:
        optimizer: None where accelerate writes it and the parameters, in shards.
        parameters: those that are trained, by name.
        ema: their averages, or None.
        scaler: of fp16's gradients, or None.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None,
        parameters: Mapping[str, torch.nn.Parameter],
        ema: EMAModel | None,
        scaler: torch.amp.GradScaler | None,
    ):
        self.optimizer, self.parameters, self.ema, self.scaler = optimizer, parameters, ema, scaler

    def averages(self) -> dict[str, torch.Tensor]:
        """The averaged parameters by name; empty without averaging."""
        return {} if self.ema is None else dict(zip(self.parameters, self.ema.shadow_params, strict=True))

    def write(self, folder: Path, position: Mapping[str, Any]) -> None:
        """Write to a checkpoint's folder, with JSON values that `read` gives back."""
        files: dict[str, Mapping[str, torch.Tensor]] = {}
        numbers: dict[str, Any] = {}
        if self.optimizer is not None:
            moments: dict[str, torch.Tensor] = {}
            for name, parameter in self.parameters.items():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    (moments if isinstance(value, torch.Tensor) else numbers)[f"{name}::{key}"] = value
            files |= {"parameters": self.parameters, "optimizer": moments}
        if self.ema is not None:
            files["ema"] = self.averages()
        for name, tensors in files.items():
            kept = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            write_state_dict(folder / STATE_FOLDER / f"{name}.safetensors", kept)
        state = {
            "optimizer": type(self.optimizer).__name__,
            "optimizer_numbers": numbers,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "ema_steps": self.ema.optimization_step if self.ema is not None else None,
        }
        write_json(folder / STATE_FILE, {**position, **state})

    def read(self, folder: Path) -> dict[str, Any]:
        """Take everything from a checkpoint, and return the position that was written with it.

        Raises:
            CheckpointError: a file is missing or damaged, or its run had other parameters or another optimizer.
        """
        path = folder / STATE_FILE
        try:
            position = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); resume from another checkpoint") from None
        if self.optimizer is not None:
            own = type(self.optimizer).__name__
            if position.get("optimizer", own) != own:
                remedy = "resume with the same --optimizer and --use_8bit_adam"
                raise CheckpointError(f"{folder}: its run used {position['optimizer']}, this one {own}; {remedy}")
            self._copy(folder, "parameters", self.parameters.values())
            self._restore_optimizer({**read_tensors(folder, "optimizer"), **position["optimizer_numbers"]})
        if self.ema is not None and position["ema_steps"] is None:
            logger.warning(f"{folder} holds no averaged weights: averaging starts anew")
        elif self.ema is not None:
            self._copy(folder, "ema", self.ema.shadow_params)
            self.ema.optimization_step = position["ema_steps"]
        if self.scaler is not None and position["scaler"]:
            self.scaler.load_state_dict(position["scaler"])
        return position

    def _copy(self, folder: Path, name: str, targets: Iterable[torch.Tensor]) -> None:
        state = read_tensors(folder, name)
        if {key: tensor.shape for key, tensor in state.items()} != {k: p.shape for k, p in self.parameters.items()}:
            raise CheckpointError(
                f"{folder}: its run trained other parameters ({len(state)}) than this one does "
                f"({len(self.parameters)}); resume with the same models, --trainable and --lora_rank"
            )
        for key, target in zip(self.parameters, targets, strict=True):
            target.data.copy_(state[key])

    def _restore_optimizer(self, values: Mapping[str, Any]) -> None:
        ordered = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        numbered = {id(parameter): number for number, parameter in enumerate(ordered)}
        state: dict[int, dict[str, Any]] = {}
        for full_name, value in values.items():
            name, _, key = full_name.partition("::")
            state.setdefault(numbered[id(self.parameters[name])], {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
