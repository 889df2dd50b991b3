"""A training in this process, and what it left."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState

from animation import cli
from animation.commands import train
from animation.flags import parse
from animation.training.loop import Trainer
from animation.training.settings import TrainingSettings

ROOT = Path(__file__).parents[2]


def arguments(flags):
    return [str(part) for flag, value in flags.items() for part in (flag, value) if part is not None]


def finetune(checkpoint):
    names = {"posenet_model": "pose_net", "face_encoder": "face_encoder", "unet_model": "unet"}
    paths = {f"--{flag}_finetune_path": checkpoint / "Animation" / f"{name}.pth" for flag, name in names.items()}
    return {"--finetune_mode=True": None, **paths}


def reset_engine():
    """Forget what accelerate keeps in the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(flags, monkeypatch, script=train):
    """Run a script in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["script", *arguments(flags)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run(script.main)
    except SystemExit as error:
        return error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
        reset_engine()
    return 0


def log(flags, name="loss"):
    lines = (flags["--output_dir"] / "training_log.jsonl").read_text().splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


def weights(folder):
    return {
        f"{part}.{name}": tensor
        for part in ("pose_net", "face_encoder", "unet")
        for name, tensor in torch.load(folder / f"{part}.pth", weights_only=True).items()
    }


def equal(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def relative_difference(found, expected):
    return float(np.max(np.abs(np.divide(found, expected) - 1)))


def trainer(flags, **changes):
    settings = parse(TrainingSettings, None, arguments(flags))
    for name, value in changes.items():
        setattr(settings, name, value)
    return Trainer(settings, settings.read_inputs())
