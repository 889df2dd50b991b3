"""What a training tells while it runs: a line of numbers for each step, in a file and to the tracker."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from animation.files import write_text


class Journal:
    """Writes `training_log.jsonl`, one JSON object a line, and passes the same numbers to accelerate's trackers.

    The accelerator's first process writes.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path):
        self.accelerator, self.path = accelerator, output_dir / "training_log.jsonl"

    def start(self, step: int, config: Mapping) -> None:
        """Begin after a step: lines of later ones, which are done again, are dropped. Trackers get the config."""
        if self.accelerator.is_main_process and self.path.is_file():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        if self.accelerator.log_with:
            plain = (int, float, str, bool)
            values = {name: value if isinstance(value, plain) else str(value) for name, value in config.items()}
            self.accelerator.init_trackers("training", values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self.accelerator.log(dict(values), step=step)

    def show(self, step: int, name: str, frames: np.ndarray) -> None:
        """Pass frames, (F, H, W, 3) uint8 RGB, to the trackers that take pictures."""
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: frames}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: list(frames)}, step=step)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line that a kill cut short
        return math.inf
