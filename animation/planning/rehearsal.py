"""What each stage of a run takes: its code runs on torch's meta device, where bytes and arithmetic are counted.

So the model of the memory is the code whose memory it is. On CUDA, what kernels take for themselves is added; on a CPU
the figures are those of tensors alone.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from animation.decoding import LATENT_SIZE
from animation.face.boxes import FaceBox
from animation.face.settings import FaceOptimizationSettings
from animation.face_optimization import FaceOptimizer
from animation.pipeline import DEVICE_SHARE_FOR_POSES, AnimationPipeline
from animation.planning.counting import META, FusedAttention, MetaCounter, cuda_workspace
from animation.quantization import check_quantization, quantize, stored_tensors
from animation.run import component_paths
from animation.runtime import choose_dtype
from animation.sampling import WindowedDenoiser, automatic_cfg_batch, denoise
from animation.schedules import EVERYWHERE, guided_steps, set_timesteps, whole_steps
from animation.settings import InferenceSettings
from animation.weights.loading import load_arcface, load_components
from animation.windows import windows_of_steps

REHEARSED_CHUNKS = 2  # of frames: a second one meets what the first left
PASSES = 4  # of the decoder in a gradient step: forward, once more for its gradients, and twice that backward
ENCODERS = ("image_encoder", "face_encoder", "vae", "pose_net")


@dataclass(frozen=True)
class Stage:
    """The networks at work in one stage, its most bytes of tensors beside the weights, floating-point operations."""

    networks: tuple[str, ...]
    peak: int
    flops: float


class Rehearsal:
    """Rehearses runs of one size and length; what their levers do not change is remembered.

    Args:
        components: what `load_components(…, device="meta")` returned; they are changed, and serve for nothing else.
        settings: of the run; all but its levers hold for every rehearsal.
        device: that the run is for.
        arcface: the recogniser of face optimisation, on the meta device; needed where the settings ask for it.
        device_memory: bytes of that device, which decide where poses wait; None: on the device.
    """

    def __init__(
        self,
        components: dict,
        settings: InferenceSettings,
        num_frames: int,
        device: torch.device,
        arcface: torch.nn.Module | None = None,
        device_memory: int | None = None,
    ):
        self.settings, self.num_frames, self.device, self.device_memory = settings, num_frames, device, device_memory
        parts = components | {"arcface": arcface}
        self.networks: dict[str, Any] = {
            name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)
        }
        self._counter = MetaCounter(None if device.type == "cpu" else cuda_workspace)
        for network in self.networks.values():
            self._counter.hold(network.to(META))
        self._base = self._counter.now
        self.networks["unet"].channels_last = device.type == "cpu"
        self._pipeline = cast(Any, AnimationPipeline(**components))
        self._pipeline._allocate_pose_latents = self._allocate_pose_latents
        self._decoder = "vae" if self._pipeline.preview_vae is None else "preview_vae"
        self._latent_size = settings.height // LATENT_SIZE, settings.width // LATENT_SIZE
        self._guidance = torch.full((num_frames,), 3.0 if settings.guided else 1.0)
        self._stages: dict[tuple, Stage] = {}

    def stages(self, settings: InferenceSettings) -> dict[str, Stage]:
        """What the stages of a run take: encode, denoise, refine where there is face optimisation, and decode.

        Stages on the host, by `--vae_device cpu`, are left out. The levers of the settings may be any.
        """
        stages = {"encode": self._rehearse("encode", ENCODERS, self._encode)}
        batch, tile = self.cfg_batch(settings), min(settings.tile_size, self.num_frames)
        folding = settings.offload != "sequential"  # it reads weights that would lie elsewhere
        stage = self._rehearse("denoise", ("unet",), self._denoise, batch, tile, folding)
        stages["denoise"] = replace(stage, flops=self._sampling_flops(settings, batch, tile, folding))
        if settings.vae_device == "cpu":
            return stages
        chunk = settings.decode_chunk_size
        shown = min(self.num_frames, REHEARSED_CHUNKS * chunk)
        if isinstance(settings, FaceOptimizationSettings):
            steps = min(settings.end_refine_step, settings.num_inference_steps - 1) - settings.start_refine_step + 1
            passes = (PASSES * settings.num_optimization_iter + 1) / (PASSES + 1)
            stage = self._rehearse("refine", (self._decoder,), self._refine, chunk, settings.hjb_crop, shown)
            stages["refine"] = replace(stage, flops=stage.flops * steps * passes * self.num_frames / shown)
        stage = self._rehearse("decode", (self._decoder,), self._decode, chunk)
        stages["decode"] = replace(stage, flops=stage.flops * self.num_frames / shown)
        return stages

    def bytes(self, stage: Stage, settings: InferenceSettings) -> int:
        """The most bytes of tensors on the device in a stage, the weights that are there then included."""
        on_host = {"vae", "preview_vae", "arcface"} if settings.vae_device == "cpu" else set()
        there = {name: part for name, part in self.networks.items() if name not in on_host}
        weights = {name: sum(x.nbytes for x in stored_tensors(part)) for name, part in there.items()}
        if settings.offload == "none":
            return stage.peak + sum(weights.values())
        if settings.offload == "model":  # one network at a time
            waiting = max(weights.get(name, 0) for name in stage.networks)
        else:
            layers = (layer for network in there.values() for layer in network.modules())
            waiting = max(sum(tensor.nbytes for tensor in layer.parameters(recurse=False)) for layer in layers)
        return stage.peak + waiting + weights.get("arcface", 0)  # which no offloading moves

    def cfg_batch(self, settings: InferenceSettings) -> int:
        """How many guidance branches these settings run in one batch, where there are two."""
        if settings.cfg_batch != "auto":
            return int(settings.cfg_batch)
        return automatic_cfg_batch(self.device, min(settings.tile_size, self.num_frames) * math.prod(self._latent_size))

    def _rehearse(self, name: str, networks: tuple[str, ...], work: Callable[..., None], *depends_on: object) -> Stage:
        """Run a stage on what it depends on, or remember it."""
        key, counter = (name, *depends_on), self._counter
        if key not in self._stages:
            counter.peak, counter.flops = counter.now, 0.0
            with torch.no_grad(), FusedAttention(), counter:
                work(*depends_on)
            self._stages[key] = Stage(networks, counter.peak - self._base, counter.flops)
        return self._stages[key]

    def _encode(self) -> None:
        """Encode blank pictures; the conditions stay for the later stages."""
        height, width = self.settings.height, self.settings.width
        pixels = np.zeros((height, width, 3), np.uint8)
        pose = SimpleNamespace(convert=lambda mode: SimpleNamespace(resize=lambda size, resample: pixels))
        embedding = np.zeros(self.networks["face_encoder"].config.embedding_dim, np.float32)
        photo = Image.new("RGB", (LATENT_SIZE, LATENT_SIZE))  # it is resized on the host
        self._conditions = self._pipeline.encode(photo, [pose] * self.num_frames, embedding, height, width)

    def _allocate_pose_latents(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """On the device while they take a small share of it, as the pipeline's own does."""
        memory = math.inf if self.device_memory is None else self.device_memory
        self._counter.paused = math.prod(shape) * like.element_size() > memory * DEVICE_SHARE_FOR_POSES
        latents = like.new_empty(shape)
        self._counter.paused = False
        return latents

    def _denoise(self, batch: int, tile: int, folding: bool) -> None:
        """One step of one window, with what the step before has left."""
        self.networks["unet"].set_folding(folding)
        scheduler = copy.deepcopy(self._pipeline.scheduler)
        scheduler.set_timesteps(1)  # which cannot be computed on the meta device
        scheduler.timesteps = scheduler.timesteps.to(META)
        left = [self._latents() for _ in range(1 + 2 * self.settings.guided)]  # predictions and v
        denoise(self._denoiser(batch, tile), scheduler, self._latents(), self._guidance)
        del left

    def _sampling_flops(self, settings: InferenceSettings, batch: int, tile: int, folding: bool) -> float:
        """Of all windows of all steps, of which some have no guidance or leave the deep layers out."""
        scheduler, steps = copy.deepcopy(self._pipeline.scheduler), settings.num_inference_steps
        set_timesteps(scheduler, steps, settings.schedule, "cpu")
        within = guided_steps(scheduler.sigmas[:-1].tolist(), settings.guidance_interval or EVERYWHERE)
        guided = [settings.guided and inside for inside in within]
        size = self.num_frames, settings.tile_size, settings.frames_overlap
        windows = windows_of_steps(settings.windows, *size, steps)
        kinds = zip(guided, whole_steps(guided, settings.cache), strict=True)
        flops = [self._rehearse("step", ("unet",), self._step, batch, tile, folding, *kind).flops for kind in kinds]
        return sum(len(of_step) * each for of_step, each in zip(windows, flops, strict=True))

    def _step(self, batch: int, tile: int, folding: bool, guided: bool, whole: bool) -> None:
        """One window of a step, with guidance or without, of the whole UNet or with its deep layers cached."""
        self.networks["unet"].set_folding(folding)
        denoiser = self._denoiser(batch, tile)
        denoiser.begin_step(0, whole)
        denoiser.accumulate(self._latents(), torch.zeros((), device=META), guided, lambda: None)

    def _denoiser(self, batch: int, tile: int) -> WindowedDenoiser:
        """Of one window, with the deep features of all frames where there is a cache."""
        unet, cache = self.networks["unet"], self.settings.cache
        denoiser = WindowedDenoiser(unet, self._conditions, [range(tile)], META, cfg_batch=batch, cache=cache)
        if cache > 1:
            channels, (height, width) = unet.up_blocks[-2].upsamplers[0].channels, self._latent_size
            shape = 2, self.num_frames, channels, height // 2, width // 2
            denoiser.deep.kept = torch.empty(shape, device=META, dtype=unet.dtype)
        return denoiser

    def _refine(self, chunk: int, crop: int | None, shown: int) -> None:
        """One gradient step on the first chunks, while the sampler waits."""
        waiting = [self._latents() for _ in range(3 + self.settings.guided)]  # latents, predictions, v
        third, eighth = self.settings.width // 3, self.settings.height // 8
        box = FaceBox(y_min=eighth, y_max=3 * eighth, x_min=third, x_max=2 * third)
        boxes = [box] * shown + [None] * (self.num_frames - shown)
        vae, arcface = self.networks[self._decoder], self.networks["arcface"]
        reference = torch.empty(1, arcface.config.embedding_dim, device=META)
        options: dict[str, Any] = {
            "num_iterations": 1,
            "decode_chunk_size": chunk,
            "crop_margin": crop,
            "progress": False,
        }
        FaceOptimizer(vae, arcface, reference, boxes, **options)(self._latents(), 0, 1)
        del waiting

    def _decode(self, chunk: int) -> None:
        for _ in itertools.islice(self._pipeline.decode(self._latents(), chunk), REHEARSED_CHUNKS):
            pass

    def _latents(self) -> torch.Tensor:
        channels = self.networks["unet"].config.out_channels
        return torch.empty(1, self.num_frames, channels, *self._latent_size, device=META)


def load_rehearsal(settings: InferenceSettings, num_frames: int, device: torch.device) -> Rehearsal:
    """A rehearsal of the networks that settings name, whose files' heads alone are read. Raises InputError."""
    check_quantization(settings.quantize, device)
    components = load_components(**component_paths(settings, choose_dtype(settings.dtype, device)), device="meta")
    quantize(components["unet"], settings.quantize)
    arcface: Any = None
    if isinstance(settings, FaceOptimizationSettings):
        arcface = load_arcface(settings.find_extractor(), device="meta")
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return Rehearsal(components, settings, num_frames, device, arcface, memory)
