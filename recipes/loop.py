"""What all recipes share: batches made by workers, a loop that resumes, and a log that is kept."""

import argparse
import contextlib
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from animation import cli
from animation.files import write_whole
from animation.runtime import computes_in_bf16
from animation.training.dataset import ignore_interrupts

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 60
STEPS_BETWEEN_LOGS = 50


def run_command(command: Sequence[str]) -> None:
    """Run a command to its end, however this process is told to stop: the command has to keep its state first.

    A terminal tells both by itself; SIGTERM is passed on. Ends this process where the command fails, as it ended.
    """
    process = subprocess.Popen(command)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    with cli.handled(cli.ending_signals(), pass_on):
        status = process.wait()
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def recipe_arguments(
    description: str | None, steps: int, batch_size: int, learning_rate: float = 2e-3
) -> argparse.Namespace:
    """The flags of a recipe, with its defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(), help="the folder of checkpoints/ and models/")
    parser.add_argument("--state", type=Path, default=Path("recipes/state"), help="where training is kept, to go on")
    parser.add_argument("--steps", type=int, default=steps, help=f"in all; {steps} if left out")
    parser.add_argument("--batch_size", type=int, default=batch_size)
    parser.add_argument("--learning_rate", type=float, default=learning_rate, help="the highest; a cosine leads to 0")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default=fast_format(), help="of activations")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--finetune", action="store_true", help="without a kept state, start from the shipped weights")
    parser.add_argument("--export_only", action="store_true", help="write the networks as they are, and stop")
    return parser.parse_args()


def fast_format() -> str:
    """The number format of activations that is fast here: bf16 where there is arithmetic for it, else float32."""
    return "bf16" if torch.cuda.is_available() or computes_in_bf16() else "no"


def train(
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    make: Callable[[int], dict[str, np.ndarray]],
    args: argparse.Namespace,
) -> nn.Module:
    """Train with AdamW on samples made by number, so that a resumed run sees what an uninterrupted one would have seen.

    Args:
        name: of the recipe: `NAME.safetensors` and `NAME.jsonl` are kept in `args.state`, from where training goes on.
        model: trained in place.
        loss: parts by name, of which the sum is minimised.
        make: a training sample by its number.
        args: of `recipe_arguments`.

    Returns:
        The model, in evaluation mode on the CPU.
    """
    device = torch.device(args.device)
    state_path, log_path = args.state / f"{name}.safetensors", args.state / f"{name}.jsonl"
    args.state.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-2, betas=(0.9, 0.98))
    step = _restore(state_path, model, optimizer)
    if step:
        logger.info("%s: going on after step %d", name, step)
    steps = step if args.export_only else max(step, args.steps)
    options = {"num_workers": args.workers, "collate_fn": partial(_batch, make), "worker_init_fn": ignore_interrupts}
    batches = DataLoader(range(step * args.batch_size, steps * args.batch_size), args.batch_size, **options)
    saved, sums, count = time.monotonic(), {}, 0
    with _interruptible() as interrupted, tqdm(total=steps, initial=step, desc=name, unit="step") as progress:
        for batch in batches:
            rate = args.learning_rate * min(1, (step + 1) / 200) * 0.5 * (1 + np.cos(np.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = max(rate, 1e-6)
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=args.mixed_precision == "bf16"):
                parts = loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            sum(parts.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            progress.update()
            sums = {key: sums.get(key, 0) + value.detach() for key, value in parts.items()}
            count += 1
            if step % STEPS_BETWEEN_LOGS == 0 or step == steps:
                means = {key: round(float(value) / count, 5) for key, value in sums.items()}
                with log_path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **means}) + "\n")
                progress.set_postfix(means)
                sums, count = {}, 0
            if interrupted or step == steps or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _keep(state_path, model, optimizer, step)
                saved = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
    return model.eval().cpu()


def _batch(make: Callable[[int], dict[str, np.ndarray]], numbers: list[int]) -> dict[str, torch.Tensor]:
    return default_collate([make(number) for number in numbers])


@contextlib.contextmanager
def _interruptible() -> Iterator[list]:
    """A list that an interrupt or a termination fills, so that the step at work is finished and kept."""
    received: list[int] = []
    with cli.handled(cli.ending_signals(), lambda number, _frame: received.append(number)):
        yield received


def _keep(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in moments.items()}
    write_whole(path, lambda partial: save_file(tensors, partial, {"step": str(step)}))


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Steps done, 0 where nothing is kept."""
    if not path.is_file():
        return 0
    network: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    for key, value in load_file(path).items():
        owner, name = key.split(".", 1)
        if owner == "model":
            network[name] = value
        else:
            index, part = name.split(".")
            moments.setdefault(int(index), {})[part] = value
    model.load_state_dict(network)
    if moments:
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A 3 × 3 convolution with its normalisation."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Exported(nn.Module):
    """A trained network with another's inputs and outputs, for `export_onnx`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


def export_onnx(model: nn.Module, path: Path, inputs: dict[str, torch.Tensor], outputs: list[str]) -> None:
    """Write a network as ONNX in one file, with these inputs' shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        model.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False
    )
    program.save(str(path), external_data=False)
