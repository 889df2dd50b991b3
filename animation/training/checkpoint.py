"""Checkpoints of a training: the three parts in the released layout, and beside them the state to go on from.

    checkpoint-N/   pose_net.pth  face_encoder.pth  unet.pth     plain state dicts, and each as .safetensors
                    checkpoint.json                              the face channel order they were trained with
                    training_state/                              trained parameters, optimizer, averages, position

A checkpoint is written under another name and renamed: it is whole or absent.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from animation.errors import CheckpointError
from animation.training.model import PART_NAMES
from animation.weights import PROPERTIES_FILE, read_state_dict

STATE_FOLDER = "training_state"
PARTIAL_SUFFIX = ".partial"


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The whole checkpoints of an output folder, by ascending step."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def find_checkpoint(name: str, output_dir: str | Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names.

    Args:
        name: `latest`, a folder, or the name of a checkpoint in the output folder.

    Returns:
        Its folder; None for `latest` where there is none yet.

    Raises:
        CheckpointError: there is no such checkpoint, or it has no training state.
    """
    if name == "latest":
        return next(reversed(checkpoint_folders(output_dir)), None)
    for folder in (Path(name), Path(output_dir) / name):
        if (folder / STATE_FOLDER / "state.json").is_file():
            return folder
    there = ", ".join(path.name for path in checkpoint_folders(output_dir)) or "none"
    raise CheckpointError(
        f"--resume_from_checkpoint {name}: no checkpoint with a {STATE_FOLDER} folder there; in {output_dir} there are: "
        f"{there}; give one of them, or latest"
    )


def begin_checkpoint(output_dir: str | Path, step: int) -> Path:
    """An empty folder to write the checkpoint of a step to."""
    partial = Path(output_dir) / f"checkpoint-{step}{PARTIAL_SUFFIX}"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / STATE_FOLDER).mkdir(parents=True)
    return partial


def finish_checkpoint(partial: Path, limit: int | None) -> Path:
    """Give a written checkpoint its name, then remove the oldest above `limit` (None: keep all)."""
    folder = partial.with_name(partial.name.removesuffix(PARTIAL_SUFFIX))
    if folder.exists():
        _remove(folder)
    partial.replace(folder)
    if limit is not None:
        for old in checkpoint_folders(folder.parent)[:-limit]:
            _remove(old)
    return folder


def _remove(folder: Path) -> None:
    doomed = folder.with_name(f"{folder.name}.old{PARTIAL_SUFFIX}")
    folder.replace(doomed)  # never a checkpoint with some of its files gone
    shutil.rmtree(doomed)


def remove_partial(output_dir: str | Path) -> None:
    """Remove what a killed run left half-written."""
    for folder in Path(output_dir).glob(f"checkpoint-*{PARTIAL_SUFFIX}"):
        shutil.rmtree(folder, ignore_errors=True)


def write_parts(folder: Path, parts: Mapping[str, dict[str, torch.Tensor]], properties: Mapping[str, Any]) -> None:
    """Write the three parts in the released layout.

    Args:
        parts: a state dict for each of `PART_NAMES`.
        properties: of the checkpoint, for `checkpoint.json`.
    """
    for name in PART_NAMES:
        torch.save(parts[name], folder / f"{name}.pth")
        save_file(parts[name], folder / f"{name}.safetensors")
    (folder / PROPERTIES_FILE).write_text(json.dumps(dict(properties), indent=1) + "\n", encoding="utf-8")


def write_state(
    folder: Path, position: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Write a training's state.

    Args:
        folder: the checkpoint's.
        position: JSON values, `step` among them.
        tensors: named tensors, in a file for each key.
    """
    for name, named in tensors.items():
        kept = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
        save_file(kept, folder / STATE_FOLDER / f"{name}.safetensors")
    (folder / STATE_FOLDER / "state.json").write_text(json.dumps(dict(position), indent=1) + "\n", encoding="utf-8")


def read_position(folder: Path) -> dict[str, Any]:
    """The position that `write_state` wrote. Raises CheckpointError."""
    path = folder / STATE_FOLDER / "state.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); resume from another checkpoint") from None


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """One file of tensors that `write_state` wrote. Raises CheckpointError."""
    return read_state_dict(folder / STATE_FOLDER / f"{name}.safetensors")


def load_trained(
    folder: Path, kind: str, parameters: Mapping[str, torch.nn.Parameter], into: list[torch.Tensor] | None = None
) -> None:
    """Copy trained parameters from a checkpoint.

    Args:
        kind: the file's stem.
        parameters: by name.
        into: copy to these instead, in the order of `parameters`.

    Raises:
        CheckpointError: the file does not hold exactly these parameters.
    """
    state = read_tensors(folder, kind)
    if state.keys() != parameters.keys():
        raise CheckpointError(
            f"{folder}: its run trained other parameters ({len(state)}) than this one does ({len(parameters)}); resume "
            "with the same --trainable and --lora_rank"
        )
    for (name, parameter), target in zip(parameters.items(), into or parameters.values(), strict=True):
        if state[name].shape != parameter.shape:
            raise CheckpointError(f"{folder}: {name} has another shape; resume with the same models")
        target.data.copy_(state[name])


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as flat named tensors, and its plain numbers apart, under `parameter::key`."""
    tensors, numbers = {}, {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{name}::{key}"] = value
    return tensors, numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Give an optimizer the state that `optimizer_tensors` took."""
    ids = {id(parameter): index for group in optimizer.param_groups for index, parameter in enumerate(group["params"])}
    state: dict[int, dict[str, Any]] = {}
    for full_name, value in {**tensors, **numbers}.items():
        name, _, key = full_name.partition("::")
        state.setdefault(ids[id(parameters[name])], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
