"""The denoising loop over windows of a long video, with classifier-free guidance and a hook on the predicted x₀."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import EulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from animation.errors import NonFiniteError
from animation.modules.deep_cache import DeepFeatures, keep_deep, recall_deep
from animation.modules.unet import PoseGuidedUNet
from animation.parallel import ALONE, Processes
from animation.schedules import EVERYWHERE, guided_steps, whole_steps
from animation.windows import window_weights

logger = logging.getLogger(__name__)

CPU_BATCH_PIXELS = 4096  # latent pixels of a window: up to here a CPU is faster with both branches in one batch


@dataclass
class Conditions:
    """All that guides the denoising of one video.

    Attributes:
        tokens: (1, 1 + n, D), the image token and n face tokens.
        image_latents: (1, 4, h, w), the photo through the VAE, not scaled.
        pose_latents: (F, C, h, w), PoseNet's features; they may wait on the CPU.
        added_time_ids: (1, 3), [fps − 1, motion bucket, noise augmentation].
    """

    tokens: Tensor
    image_latents: Tensor
    pose_latents: Tensor
    added_time_ids: Tensor

    @property
    def num_frames(self) -> int:
        """F, the length of the video."""
        return len(self.pose_latents)


def initial_latents(
    unet: PoseGuidedUNet,
    conditions: Conditions,
    tile_size: int,
    device: torch.device,
    generator: torch.Generator | None = None,
    fresh: bool = False,
) -> Tensor:
    """(1, F, 4, h, w) of unit variance: noise of one window in the UNet's dtype, repeated or, `fresh`, drawn on."""
    shape = (1, tile_size, unet.config.out_channels, *conditions.image_latents.shape[-2:])
    pieces = -(-conditions.num_frames // tile_size)
    drawn = [
        randn_tensor(shape, generator=generator, device=device, dtype=unet.dtype) for _ in range(pieces if fresh else 1)
    ]
    return torch.cat(drawn if fresh else drawn * pieces, dim=1)[:, : conditions.num_frames]


class RefineX0(Protocol):
    """A hook that improves the predicted clean latents before the sampler steps towards them."""

    def __call__(self, x0: Tensor, step: int, num_steps: int) -> Tensor:
        """Take and return (1, F, 4, h, w) float32 latents, scaled as the sampler's; gradients are off outside."""


class Checkpoint(Protocol):
    """A hook that keeps the state of the loop between two steps, so that a later run goes on from there."""

    def restore(self, denoiser: "WindowedDenoiser") -> tuple[int, Tensor] | None:
        """The step to go on with, and the latents, (1, F, 4, h, w) float32, to do it on; None to begin at the first."""

    def keep(self, step: int, latents: Tensor, denoiser: "WindowedDenoiser") -> None:
        """Keep the latents with which `step` is to begin; as many steps as there are: all is done.

        Of several processes the first one does it.
        """


def automatic_cfg_batch(device: torch.device, window_pixels: int) -> int:
    """How many guidance branches run in one batch where nobody says, for windows of so many latent pixels."""
    return 2 if device.type != "cpu" or window_pixels <= CPU_BATCH_PIXELS else 1


class WindowLayout:
    """The windows of a step on the device, their weights, and the weights' sum in each frame, (F, 1, 1, 1)."""

    def __init__(self, windows: Sequence[Sequence[int]], conditions: Conditions, device: torch.device):
        self.windows = [torch.tensor(window, device=device) for window in windows]
        self.pose_windows = [index.to(conditions.pose_latents.device) for index in self.windows]
        weights_of = (torch.tensor(window_weights(len(window)), device=device) for window in windows)
        self.weights = [weights[:, None, None, None] for weights in weights_of]
        self.weight_sum = torch.zeros(conditions.num_frames, 1, 1, 1, device=device)
        for index, weights in zip(self.windows, self.weights, strict=True):
            self.weight_sum.index_add_(0, index, weights)


class WindowedDenoiser:
    """Predicts v for a video of any length, window by window: a weighted sum over windows, to divide by `weight_sum`.

    Args:
        windows: frame numbers of each window, as `window_indices` gives them.
        device: where to sample.
        later: windows of the steps after the first, where they differ, as `windows_of_steps` gives them.
        cache: run the UNet's deep layers at every so many steps; see `deep_cache`.
        cfg_batch: 2 runs the guided and the unguided branch in one batch, 1 one after the other; None takes what is
            faster: 2 on an accelerator, going on with 1 where memory does not suffice, and for small windows on a CPU.
        processes: that share the windows; each sums its own alone.
    """

    def __init__(
        self,
        unet: PoseGuidedUNet,
        conditions: Conditions,
        windows: Sequence[Sequence[int]],
        device: torch.device,
        *,
        cfg_batch: int | None = None,
        later: Sequence[Sequence[Sequence[int]]] = (),
        cache: int = 1,
        processes: Processes = ALONE,
    ):
        if cache > 1 and processes.count > 1:
            raise ValueError("deep features are kept by one process alone")
        self.unet, self.conditions, self.device, self.cache = unet, conditions, device, cache
        self.processes = processes
        window_pixels = len(windows[0]) * conditions.image_latents[0, 0].numel()
        self.cfg_batch = cfg_batch or automatic_cfg_batch(device, window_pixels)
        self._may_fall_back = cfg_batch is None
        self.deep = DeepFeatures()
        self._layouts = [WindowLayout(step, conditions, device) for step in (windows, *later)]
        self.begin_step(0)

    def begin_step(self, step: int, whole: bool = True) -> None:
        """Take the windows of a step; where it is not `whole`, deep features of the step before serve again."""
        self._layout, self._whole = self._layouts[step % len(self._layouts)], whole

    @property
    def weight_sum(self) -> Tensor:
        """(F, 1, 1, 1), the weights of this step's windows in each frame."""
        return self._layout.weight_sum

    def num_windows(self, num_steps: int, first: int = 0) -> int:
        """Of so many steps from one on."""
        steps = range(first, first + num_steps)
        return sum(len(self._layouts[step % len(self._layouts)].windows) for step in steps)

    def own(self, guided: bool) -> dict[int, list[int]]:
        """The windows of this process by number, and the branches of each that it predicts, in `accumulate`'s order."""
        work = [(window, branch) for window in range(len(self._layout.windows)) for branch in range(1 + guided)]
        by_window = itertools.groupby(self.processes.own(work), key=lambda pair: pair[0])
        return {window: [branch for _, branch in pairs] for window, pairs in by_window}

    def accumulate(
        self, scaled_latents: Tensor, timestep: Tensor, guided: bool, on_window: Callable[..., object]
    ) -> Tensor:
        """Sum the weighted predictions of this process's windows, and call `on_window` after each.

        Args:
            scaled_latents: (1, F, 4, h, w) float32, divided by √(σ² + 1).
            timestep: 0.25·ln σ, on the sampling device.

        Returns:
            (branches, F, 4, h, w) float32: the unconditional branch if guided, then the conditional one.
        """
        total = scaled_latents.new_zeros(1 + guided, *scaled_latents.shape[1:])
        layout = self._layout
        for window, branches in self.own(guided).items():
            index, weights = layout.windows[window], layout.weights[window]
            poses = self.conditions.pose_latents[layout.pose_windows[window]]
            if poses.device != self.device:
                poses = (poses.pin_memory() if self.device.type == "cuda" else poses).to(self.device, non_blocking=True)
            prediction = self._predict(scaled_latents[:, index], timestep, poses[None], guided, branches, index)
            total[branches[0] : branches[-1] + 1].index_add_(1, index, prediction.float() * weights)
            on_window()
        return total

    def _predict(
        self, latents: Tensor, timestep: Tensor, poses: Tensor, guided: bool, branches: Sequence[int], index: Tensor
    ) -> Tensor:
        """One window, (1, f, 4, h, w) → (branches, f, 4, h, w)."""
        image_latents = self.conditions.image_latents[:, None].expand(-1, latents.shape[1], -1, -1, -1)
        latents = latents.to(image_latents.dtype)
        conditional = torch.cat([latents, image_latents], dim=2)  # (1, f, 8, h, w)
        if branches == [int(guided)]:
            return self._run_unet(conditional, timestep, poses, index)
        unconditional = torch.cat([latents, torch.zeros_like(image_latents)], dim=2)
        if branches == [0]:
            return self._run_unet(unconditional, timestep, None, index)
        if self.cfg_batch == 2:
            try:
                return self._run_unet(torch.cat([unconditional, conditional]), timestep, poses, index)
            except torch.OutOfMemoryError:
                if not self._may_fall_back:
                    raise
            self.cfg_batch = 1
            torch.cuda.empty_cache()
            logger.info("both guidance branches in one batch do not fit the memory: going on with one after the other")
        alone = (unconditional, None), (conditional, poses)
        return torch.cat([self._run_unet(sample, timestep, poses, index) for sample, poses in alone])

    def _run_unet(self, sample: Tensor, timestep: Tensor, poses: Tensor | None, index: Tensor) -> Tensor:
        """One call for the frames of `index`: of both branches, or of one, the unconditional where `poses` is None."""
        tokens = self.conditions.tokens if poses is not None else self.conditions.tokens[:0]
        time_ids = self.conditions.added_time_ids.expand(len(sample), -1)

        def call() -> Tensor:
            return self.unet(sample, timestep, tokens, time_ids, pose_latents=poses, return_dict=False)[0]

        branches = slice(0, 1) if poses is None else slice(2 - len(sample), 2)
        if self.cache == 1:
            return call()
        if not self._whole:
            with recall_deep(self.unet, self.deep.recall(branches, index)):
                return call()
        with keep_deep(self.unet) as kept:
            prediction = call()
        self.deep.keep(branches, index, self.conditions.num_frames, kept[0])
        return prediction


class _FiniteCheck:
    """Finds the first step whose latents hold NaN or infinity, without making the host wait for the device.

    Each step's verdict is copied to host memory in the background, and read a step later.
    """

    def __init__(self, num_steps: int, device: torch.device):
        self.verdicts = torch.ones(num_steps, dtype=torch.bool, pin_memory=device.type == "cuda")

    def record(self, step: int, latents: Tensor) -> None:
        self.raise_if_found()
        self.verdicts[step].copy_(latents.isfinite().all(), non_blocking=True)

    def raise_if_found(self) -> None:
        if not self.verdicts.all():
            step = int(self.verdicts.int().argmin())
            raise NonFiniteError(
                f"the latents hold NaN or infinity after step {step + 1} of {len(self.verdicts)}; try --dtype bf16 or "
                "fp32, and check that the weights files are whole"
            )


def predicted_x0(v: Tensor, latents: Tensor, sigma: float | Tensor) -> Tensor:
    """Clean latents from a v-prediction: x₀ = x/(σ² + 1) − v·σ/√(σ² + 1) (Salimans & Ho 2022, in EDM's scaling)."""
    return latents / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1) ** 0.5)


def v_from_x0(x0: Tensor, latents: Tensor, sigma: float) -> Tensor:
    """The v-prediction that stands for given clean latents: the inverse of `predicted_x0`."""
    return (latents / (sigma**2 + 1) - x0) * ((sigma**2 + 1) ** 0.5 / sigma)


def denoise(
    denoiser: WindowedDenoiser,
    scheduler: EulerDiscreteScheduler,
    latents: Tensor,
    guidance_scale: Tensor,
    *,
    refine_x0: RefineX0 | None = None,
    on_step_end: Callable[[int, Tensor, Tensor], Tensor] = lambda step, timestep, latents: latents,
    on_window: Callable[..., object] = lambda count=1: None,
    checkpoint: Checkpoint | None = None,
    guidance_interval: Sequence[float] = EVERYWHERE,
) -> Tensor:
    """Denoise a whole video, all its windows at each step, to clean latents, (1, F, 4, h, w) float32.

    Args:
        scheduler: SVD's, with its timesteps set on the latents' device.
        latents: (1, F, 4, h, w), noise times the scheduler's initial sigma.
        guidance_scale: (F,), a scale for each frame; where none is above 1 only the conditional branch runs.
        refine_x0, checkpoint: see there.
        guidance_interval: the lowest and the highest noise level with guidance.
        on_step_end: called with the step, its timestep and the latents; returns the latents to go on with.
        on_window: called after each window; with the number of windows that an earlier run has done.

    Raises:
        NonFiniteError: the latents hold NaN or infinity; it names the step.
    """
    latents = latents.float()
    anywhere = bool((guidance_scale > 1).any())
    guided = [anywhere and within for within in guided_steps(scheduler.sigmas[:-1].tolist(), guidance_interval)]
    whole = whole_steps(guided, denoiser.cache)
    guidance = guidance_scale.to(latents.device, latents.dtype)[None, :, None, None, None]
    timesteps = scheduler.timesteps
    first = 0
    if checkpoint is not None and (kept := checkpoint.restore(denoiser)) is not None:
        first, latents = kept[0], kept[1].to(latents)
    scheduler.set_begin_index(first)  # otherwise the first step asks the device where it is
    if first:
        on_window(denoiser.num_windows(first))
    check = _FiniteCheck(len(timesteps), latents.device)
    for step, timestep in enumerate(timesteps[first:], first):
        sigma = float(scheduler.sigmas[step])  # kept on the host by the scheduler
        scaled_latents = scheduler.scale_model_input(latents, timestep)
        denoiser.begin_step(step, whole[step])
        prediction = denoiser.accumulate(scaled_latents, timestep, guided[step], on_window) / denoiser.weight_sum
        v = prediction[-1:]
        if guided[step]:
            unconditional, conditional = prediction.chunk(2)
            v = unconditional + guidance * (conditional - unconditional)
        v = denoiser.processes.sum(v)  # all of the above is linear in the windows
        if elsewhere := denoiser.num_windows(1, step) - len(denoiser.own(guided[step])):
            on_window(elsewhere)
        if refine_x0 is not None:
            x0 = refine_x0(predicted_x0(v, latents, sigma), step, len(timesteps))
            v = v_from_x0(x0, latents, sigma)
        latents = scheduler.step(v, timestep, latents).prev_sample
        check.record(step, latents)
        latents = on_step_end(step, timestep, latents)
        if checkpoint is not None and denoiser.processes.is_first and (step + 1 == len(timesteps) or whole[step + 1]):
            # Nothing is kept of deep layers.
            checkpoint.keep(step + 1, latents, denoiser)
    if latents.is_cuda:
        torch.cuda.synchronize(latents.device)
    check.raise_if_found()
    return latents
