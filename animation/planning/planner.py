"""Which levers make a run fit the memory, what it will take at each stage, and about how long."""

import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from animation.errors import InputError
from animation.planning.rehearsal import Rehearsal, load_rehearsal
from animation.runtime import choose_device, choose_dtype
from animation.settings import InferenceSettings

GB = 2**30  # bytes, as cards are sold and nvidia-smi counts
CUDA_CONTEXT = 0.6 * GB  # of the driver and its libraries, in no tensor
FRAGMENTED = 1.08  # what the allocator holds, over what tensors hold
SMALLEST_TILE = 8  # frames: below it there is little movement left to see
OFFLOADS = ("none", "model", "sequential")
LEVERS = ("offload", "cfg_batch", "tile_size", "decode_chunk_size")
TRIAL_SECONDS = 0.2
TRIAL_CHANNELS, TRIAL_SIZE = 320, 32  # of a layer of the released UNet
SHARE_OF_TRIAL = 0.6  # of the rate of a trial that a whole UNet reaches: on a CPU, fp32, 0.59 (0.51 to 0.63)


@dataclass(frozen=True)
class Need:
    """What one stage will take: bytes of device memory at its peak, and floating-point operations."""

    bytes: int
    flops: float


@dataclass(frozen=True)
class Plan:
    """How a run will go.

    Attributes:
        needs: by stage, in their order.
        levers: the settings of `LEVERS` that the run will have, `cfg_batch` as the number that it comes to.
        changed: those that differ from what was asked for.
        device: its kind, cpu, cuda or mps.
        max_vram, rate: see `make_plan`.
    """

    needs: Mapping[str, Need]
    levers: Mapping[str, Any]
    changed: Mapping[str, Any]
    device: str
    max_vram: float | None
    rate: float

    @property
    def bytes(self) -> int:
        """The most device memory that the run takes."""
        return max(need.bytes for need in self.needs.values())

    @property
    def seconds(self) -> float:
        """About how long it takes, without loading and skeletons."""
        return sum(need.flops for need in self.needs.values()) / self.rate

    def text(self) -> str:
        """The plan in a few lines."""
        lines = [f"plan      {_flags(self.levers)}"]
        if self.changed:
            lines.append(f"          chosen to fit {self.max_vram:g} GB: {_flags(self.changed)}")
        for name, need in self.needs.items():
            lines.append(f"{name:10}{need.bytes / GB:.2f} GB, about {duration(need.flops / self.rate)}")
        memory = "of GPU memory" if self.device == "cuda" else "of tensors"
        lines.append(
            f"in all    at most {self.bytes / GB:.2f} GB {memory}, about {duration(self.seconds)} at "
            f"{self.rate / 1e12:.3g} TFLOP/s as tried here"
        )
        return "\n".join(lines)


def plan_run(
    settings: InferenceSettings, num_frames: int, max_vram: float | None = None, fixed: Collection[str] = ()
) -> Plan:
    """Plan a run on the device that its settings name, as `make_plan` does.

    Raises:
        CheckpointError: a file is missing or damaged, or the parts do not fit each other.
        InputError: the device does not do, or nothing fits.
    """
    device = choose_device(settings.device)
    rate = measure_rate(device, choose_dtype(settings.dtype, device))
    return make_plan(load_rehearsal(settings, num_frames, device), max_vram, fixed, rate)


def make_plan(
    rehearsal: Rehearsal, max_vram: float | None = None, fixed: Collection[str] = (), rate: float = math.inf
) -> Plan:
    """Plan a run, within a limit where there is one.

    Levers are pulled in this order until everything fits: what changes nothing but time (one model at a time on the
    device, one guidance branch at a time), fewer frames decoded together, smaller windows, one layer at a time.

    Args:
        rehearsal: of the run as it is asked for: the start of the search, and what no lever goes above.
        max_vram: GB (2³⁰ bytes) of device memory that the run may take, the driver's share included.
        fixed: those of `LEVERS` that must stay as they are.
        rate: floating-point operations a second, as `measure_rate` finds them.

    Raises:
        InputError: nothing fits; it says what the least would be.
    """
    asked, device = rehearsal.settings, rehearsal.device.type
    least: tuple[float, str, dict[str, Any]] = math.inf, "", {}
    for settings in [asked] if max_vram is None else _candidates(rehearsal, fixed):
        needs = {
            name: Need(device_bytes(rehearsal.bytes(stage, settings), device), stage.flops)
            for name, stage in rehearsal.stages(settings).items()
        }
        most = max(needs, key=lambda name: needs[name].bytes)
        levers = {name: getattr(settings, name) for name in LEVERS}
        changed = {name: value for name, value in levers.items() if value != getattr(asked, name)}
        levers["cfg_batch"] = rehearsal.cfg_batch(settings)
        if max_vram is None or needs[most].bytes <= max_vram * GB:
            return Plan(needs, levers, changed, device, max_vram, rate)
        if needs[most].bytes < least[0]:
            least = needs[most].bytes, most, levers
    need, stage, levers = least
    raise InputError(
        f"--max_vram {max_vram:g}: {asked.width}×{asked.height} does not fit; the least is "
        f"{math.ceil(need / GB * 100) / 100:.2f} GB, at the stage {stage} with {_flags(levers)}; give that much or a "
        "smaller --size"
    )


def device_bytes(tensors: int, device: str) -> int:
    """What a device must have for so many bytes of tensors: on CUDA also the driver's share and gaps."""
    return int(tensors * FRAGMENTED + CUDA_CONTEXT) if device == "cuda" else tensors


def _candidates(rehearsal: Rehearsal, fixed: Collection[str]) -> Iterator[InferenceSettings]:
    """All settings that may be tried, the cheapest in quality first, then the cheapest in time."""
    asked = rehearsal.settings
    offloads = OFFLOADS if asked.quantize == "none" else OFFLOADS[:-1]
    choices: dict[str, list[Any]] = {
        "tile_size": [tile for tile in _halved(asked.tile_size, SMALLEST_TILE) if tile > asked.frames_overlap],
        "decode_chunk_size": _halved(asked.decode_chunk_size, 1),
        "cfg_batch": list(dict.fromkeys([asked.cfg_batch, "1"])) if asked.guided else [asked.cfg_batch],
        "offload": list(offloads[offloads.index(asked.offload) :]),
    }
    as_asked = [*fixed, "offload"] if rehearsal.device.type == "cpu" else fixed
    choices |= {name: [getattr(asked, name)] for name in as_asked}
    combinations = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    for levers in sorted(combinations, key=lambda levers: levers["offload"] == "sequential"):
        yield replace(asked, **levers)


def _halved(value: int, least: int) -> list[int]:
    """A number, its half and so on, down to a least one or to itself."""
    return [value, *(_halved(value // 2, least) if value // 2 >= least else [])]


def measure_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second that whole networks will do on a device, from a short trial.

    The trial is a convolution and a matrix product of the released UNet's shapes, of which networks reach a share.
    """
    size = 1 if device.type == "cpu" else 16
    pixels = torch.zeros(size, TRIAL_CHANNELS, TRIAL_SIZE, TRIAL_SIZE, device=device, dtype=dtype)
    kernel = torch.zeros(TRIAL_CHANNELS, TRIAL_CHANNELS, 3, 3, device=device, dtype=dtype)
    rows = torch.zeros(size * TRIAL_SIZE**2, TRIAL_CHANNELS, device=device, dtype=dtype)
    matrix = torch.zeros(TRIAL_CHANNELS, 8 * TRIAL_CHANNELS, device=device, dtype=dtype)
    work = 2.0 * len(rows) * TRIAL_CHANNELS * (9 * TRIAL_CHANNELS + 8 * TRIAL_CHANNELS)

    def trial() -> float:
        start = time.perf_counter()
        F.conv2d(pixels, kernel, padding=1)
        rows @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    rounds: list[float] = []
    with torch.no_grad():
        trial()  # the first one finds its kernels
        end = time.perf_counter() + TRIAL_SECONDS
        while not rounds or time.perf_counter() < end:
            rounds.append(trial())
    return work / sorted(rounds)[len(rounds) // 2] * SHARE_OF_TRIAL


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _flags(levers: Mapping[str, Any]) -> str:
    return " ".join(f"--{name} {value}" for name, value in levers.items())
