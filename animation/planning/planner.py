"""`--max_vram`: which levers make a run fit the memory, what it will take at each stage, and about how long."""

import itertools
import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from animation.decoding import LATENT_SIZE
from animation.errors import InputError
from animation.planning.memory import Job, Rehearsal, peak_bytes
from animation.runtime import choose_dtype
from animation.sampling import CPU_BATCH_PIXELS
from animation.settings import InferenceSettings
from animation.weights.loading import load_arcface, load_components, resolve_svd_folder
from animation.windows import window_indices

logger = logging.getLogger(__name__)

GB = 2**30  # bytes, as cards are sold and nvidia-smi counts
CUDA_CONTEXT = 0.6 * GB  # of the driver and its libraries, in no tensor
FRAGMENTED = 1.08  # what the allocator holds, over what tensors hold
SMALLEST_TILE = 8  # frames: below it there is little movement left to see
OFFLOADS = ("none", "model", "sequential")
LEVERS = ("cfg_batch", "tile_size", "decode_chunk_size")  # of a job
TRIAL_SECONDS = 0.5
TRIAL_CHANNELS, TRIAL_SIZE = 320, 32  # of a layer of the released UNet
SHARE_OF_TRIAL = 0.6  # of the rate of a trial that a whole UNet reaches: on a CPU, fp32, 0.59 (0.51 to 0.63)


@dataclass(frozen=True)
class StagePlan:
    """What one stage will take: bytes of device memory at its peak, and about how many seconds (None: not tried)."""

    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """How a run will go.

    Attributes:
        job: with the levers that were chosen.
        offload: none, model or sequential.
        stages: by name, in their order.
        device: its kind, cpu or cuda.
        limit: bytes that the run may take; None for all there are.
        changed: the levers that differ from what was asked for, by flag.
        rate: floating-point operations a second that the estimate of the time is made with; None for no estimate.
    """

    job: Job
    offload: str
    stages: Mapping[str, StagePlan]
    device: str
    limit: int | None
    changed: Mapping[str, object]
    rate: float | None

    @property
    def bytes(self) -> int:
        """The most device memory that the run takes."""
        return max(stage.bytes for stage in self.stages.values())

    @property
    def seconds(self) -> float | None:
        """About how long it takes, without loading and skeletons; None where the device's speed was not tried."""
        return None if self.rate is None else sum(stage.seconds for stage in self.stages.values())

    def levers(self) -> dict[str, object]:
        """The settings that were chosen, by the names of their flags."""
        return {"offload": self.offload, **{name: getattr(self.job, name) for name in LEVERS}}

    def text(self) -> str:
        """The plan in a few lines."""
        job = self.job
        windows = len(window_indices(job.num_frames, job.tile_size, job.frames_overlap))
        kept = ", ".join(f"--{name} {value}" for name, value in self.levers().items())
        lines = [
            f"plan: {job.num_frames} frames of {job.width}×{job.height} (width × height) in {windows} windows of up to "
            f"{job.tile_size}, {job.num_inference_steps} steps",
            f"  with {kept}",
        ]
        if self.changed:
            flags = " ".join(f"--{name} {value}" for name, value in self.changed.items())
            lines.append(f"  chosen to fit {self.limit / GB:.1f} GB: {flags}")
        for name, stage in self.stages.items():
            took = "" if stage.seconds is None else f"  about {duration(stage.seconds)}"
            lines.append(f"  {name:8}{stage.bytes / GB:7.2f} GB{took}")
        lines.append(f"  at most {self.bytes / GB:.2f} GB of {'GPU' if self.device == 'cuda' else 'tensor'} memory")
        if self.rate is not None:
            lines[-1] += f"; about {duration(self.seconds)} in all, at {self.rate / 1e12:.3g} TFLOP/s as tried here"
        return "\n".join(lines)


def load_rehearsal(
    settings: InferenceSettings, device: torch.device, arcface_path: str | Path | None = None
) -> Rehearsal:
    """A rehearsal of the networks that settings name, whose files' heads alone are read.

    Args:
        settings: `SamplingSettings` of any kind: networks, number format.
        device: that the run is for.
        arcface_path: the recogniser of face optimisation; None without it.

    Raises:
        CheckpointError: a file is missing or damaged, or the parts do not fit each other.
        InputError: the device does not compute in the number format.
    """
    components = load_components(
        resolve_svd_folder(settings.pretrained_model_name_or_path, settings.revision),
        settings.unet_model_name_or_path,
        settings.posenet_model_name_or_path,
        settings.face_encoder_model_name_or_path,
        choose_dtype(settings.dtype, device),
        settings.vae,
        device="meta",
    )
    arcface = None if arcface_path is None else load_arcface(arcface_path, device="meta")
    on_gpu = device.type != "cpu"
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    return Rehearsal(components, "cuda" if on_gpu else "cpu", arcface, memory)


def job_of(
    settings: InferenceSettings,
    width: int,
    height: int,
    num_frames: int,
    device: torch.device,
    face_optimization: bool = False,
) -> Job:
    """What memory and time depend on, of `SamplingSettings` of any kind.

    Args:
        settings: steps, windows, guidance, levers; with face optimisation also its steps, iterations and crop.
        width, height: of the canvas, pixels.
        num_frames: of the video.
        device: that the run is for; it decides what a `cfg_batch` of auto means.
        face_optimization: whether faces are optimised.
    """
    guided = max(settings.guidance_scale, settings.min_guidance_scale or 0) > 1
    window = min(settings.tile_size, num_frames) * width * height // LATENT_SIZE**2
    automatic = 2 if device.type != "cpu" or window <= CPU_BATCH_PIXELS else 1
    steps = settings.num_inference_steps
    faces = {}
    if face_optimization:
        last = min(settings.end_refine_step, steps - 1)
        faces = {
            "refined_steps": max(0, last - settings.start_refine_step + 1),
            "hjb_crop": settings.hjb_crop,
            "num_optimization_iter": settings.num_optimization_iter,
        }
    return Job(
        width=width,
        height=height,
        num_frames=num_frames,
        num_inference_steps=steps,
        tile_size=settings.tile_size,
        frames_overlap=settings.frames_overlap,
        guided=guided,
        cfg_batch=automatic if settings.cfg_batch == "auto" else int(settings.cfg_batch),
        decode_chunk_size=settings.decode_chunk_size,
        **faces,
    )


def make_plan(
    rehearsal: Rehearsal,
    job: Job,
    offload: str = "none",
    max_vram: float | None = None,
    fixed: Collection[str] = (),
    rate: float | None = None,
) -> Plan:
    """Plan a run, within a limit where there is one.

    Levers are pulled in this order until everything fits: what changes nothing but time (one model at a time on the
    device, one guidance branch at a time), fewer frames decoded together, smaller windows, one layer at a time.

    Args:
        rehearsal: of the networks, for the kind of device.
        job: what is asked for: the start of the search, and what no lever goes above.
        offload: what is asked for.
        max_vram: GB (2³⁰ bytes) of device memory that the run may take, the driver's share included.
        fixed: levers that must stay as they are: of offload, cfg_batch, tile_size and decode_chunk_size.
        rate: floating-point operations a second, as `measure_rate` finds them; None for no estimate of the time.

    Raises:
        InputError: the limit is not above 0, or nothing fits; it says what the least would be.
    """
    if max_vram is not None and not 0 < max_vram < math.inf:
        raise InputError(f"--max_vram {max_vram} is not a size; give GB above 0")
    limit = None if max_vram is None else int(max_vram * GB)
    asked = {"offload": offload, **{name: getattr(job, name) for name in LEVERS}}
    least = None
    for candidate, way in [(job, offload)] if limit is None else _candidates(rehearsal, job, offload, fixed):
        stages = rehearsal.run(candidate, way)
        needs = {
            name: device_bytes(peak_bytes(stage, rehearsal, way), rehearsal.kernels) for name, stage in stages.items()
        }
        if limit is None or max(needs.values()) <= limit:
            chosen = {"offload": way, **{name: getattr(candidate, name) for name in LEVERS}}
            changed = {name: value for name, value in chosen.items() if value != asked[name]}
            plans = {
                name: StagePlan(needs[name], None if rate is None else stage.flops / rate)
                for name, stage in stages.items()
            }
            return Plan(candidate, way, plans, rehearsal.kernels, limit, changed, rate)
        if least is None or max(needs.values()) < least[0]:
            least = max(needs.values()), max(needs, key=needs.get), candidate, way
    need, stage, candidate, way = least
    raise InputError(
        f"--max_vram {max_vram:g}: {job.width}×{job.height} does not fit; the least is "
        f"{math.ceil(need / GB * 100) / 100:.2f} GB, at the stage {stage} with --offload {way} "
        f"--cfg_batch {candidate.cfg_batch} --tile_size {candidate.tile_size} "
        f"--decode_chunk_size {candidate.decode_chunk_size}; give that much or a smaller --size"
    )


def device_bytes(tensors: int, device: str) -> int:
    """What a device must have for so many bytes of tensors: on CUDA also the driver's share and gaps."""
    return int(tensors * FRAGMENTED + CUDA_CONTEXT) if device == "cuda" else tensors


def _candidates(rehearsal: Rehearsal, job: Job, offload: str, fixed: Collection[str]) -> Iterator[tuple[Job, str]]:
    """All settings that may be tried, the cheapest in quality first, then the cheapest in time."""
    ways = list(OFFLOADS[OFFLOADS.index(offload) :])
    if "offload" in fixed or rehearsal.kernels == "cpu":
        ways = [offload]
    batches = [job.cfg_batch] if "cfg_batch" in fixed or not job.guided else list(dict.fromkeys([job.cfg_batch, 1]))
    tiles = [job.tile_size] if "tile_size" in fixed else _halved(job.tile_size, SMALLEST_TILE)
    tiles = [tile for tile in tiles if tile > job.frames_overlap]
    chunks = [job.decode_chunk_size] if "decode_chunk_size" in fixed else _halved(job.decode_chunk_size, 1)
    gentle, harsh = [way for way in ways if way != "sequential"], [way for way in ways if way == "sequential"]
    for group in (gentle, harsh):
        for tile, chunk, batch, way in itertools.product(tiles, chunks, batches, group):
            yield replace(job, tile_size=tile, decode_chunk_size=chunk, cfg_batch=batch), way


def _halved(value: int, least: int) -> list[int]:
    """A number, its half and so on, down to a least one or to itself."""
    values = [value]
    while values[-1] // 2 >= least:
        values.append(values[-1] // 2)
    return values


def measure_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second that whole networks will do on a device, from half a second's trial.

    The trial is a convolution and a matrix product of the released UNet's shapes, of which networks reach a share.
    """
    size = 1 if device.type == "cpu" else 16
    pixels = torch.zeros(size, TRIAL_CHANNELS, TRIAL_SIZE, TRIAL_SIZE, device=device, dtype=dtype)
    kernel = torch.zeros(TRIAL_CHANNELS, TRIAL_CHANNELS, 3, 3, device=device, dtype=dtype)
    rows = torch.zeros(size * TRIAL_SIZE**2, TRIAL_CHANNELS, device=device, dtype=dtype)
    matrix = torch.zeros(TRIAL_CHANNELS, 8 * TRIAL_CHANNELS, device=device, dtype=dtype)
    work = 2.0 * len(rows) * TRIAL_CHANNELS * (9 * TRIAL_CHANNELS + 8 * TRIAL_CHANNELS)

    def trial() -> float:
        """Seconds of one round."""
        start = time.perf_counter()
        F.conv2d(pixels, kernel, padding=1)
        rows @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with torch.no_grad():
        trial()  # the first one finds its kernels
        rounds, end = [], time.perf_counter() + TRIAL_SECONDS
        while not rounds or time.perf_counter() < end:
            rounds.append(trial())
    return work / sorted(rounds)[len(rounds) // 2] * SHARE_OF_TRIAL


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
