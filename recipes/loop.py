"""What all recipes share: batches made by workers, a loop that resumes, and a log that is kept."""

import argparse
import contextlib
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from animation.files import write_whole

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 60
STEPS_BETWEEN_LOGS = 50


class Samples(Dataset):
    """Samples by their number: `make(number)` returns a dictionary of arrays."""

    def __init__(self, make: Callable[[int], dict[str, np.ndarray]], start: int, stop: int):
        self.make, self.start, self.stop = make, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.make(self.start + index)


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
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="bf16", help="of activations")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--finetune", action="store_true", help="without a kept state, start from the shipped weights")
    parser.add_argument("--export_only", action="store_true", help="write the networks as they are, and stop")
    return parser.parse_args()


def train(
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    make: Callable[[int], dict[str, np.ndarray]],
    args: argparse.Namespace,
) -> nn.Module:
    """Train with AdamW on samples made by number, going on from what is kept in `args.state`.

    Every sample is a function of its number, so a resumed run sees what an uninterrupted one would have seen.

    Args:
        name: of the recipe: `NAME.safetensors` and `NAME.jsonl` are kept.
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
    steps = 0 if args.export_only else args.steps
    saved, sums, count = time.monotonic(), {}, 0
    with _interruptible() as interrupted, tqdm(total=steps, initial=step, desc=name, unit="step") as progress:
        for batch in _batches(make, step, steps, args):
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


def _batches(make, step: int, steps: int, args: argparse.Namespace) -> Iterator[dict[str, torch.Tensor]]:
    if step >= steps:
        return iter(())
    samples = Samples(make, step * args.batch_size, steps * args.batch_size)
    return iter(DataLoader(samples, args.batch_size, num_workers=args.workers, worker_init_fn=_ignore_interrupts))


def _ignore_interrupts(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _interruptible() -> Iterator[list]:
    """A list that an interrupt or a termination fills, so that the step at work is finished and kept."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    write_whole(path, lambda partial: save_file(tensors, partial, {"step": str(step)}))


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Steps done, 0 where nothing is kept."""
    if not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, part = key.split(".")
            moments.setdefault(int(index), {})[part] = value
    if moments:
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def export_onnx(model: nn.Module, path: Path, inputs: dict[str, torch.Tensor], outputs: list[str]) -> None:
    """Write a network as ONNX in one file, with these inputs' shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        model.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False
    )
    program.save(str(path), external_data=False)
