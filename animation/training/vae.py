"""Training of the VAE itself, which the method takes as it is: SVD's temporal one, or a tiny one for previews."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from animation.decoding import encode_frames
from animation.errors import InputError, NonFiniteError
from animation.training import checkpoint as checkpoints
from animation.training.clips import ClipError
from animation.training.dataset import ignore_interrupts, load_image, stack_images, to_unit_range
from animation.training.engine import make_accelerator, make_optimizer
from animation.training.journal import Journal
from animation.training.plan import MicroBatches, Purpose, SampleKey, SamplePlan, random_stream
from animation.training.step import sample_posterior
from animation.training.vae_settings import VaeSettings
from animation.weights.loading import load_vae, new_vae

logger = logging.getLogger(__name__)

SCALING_BATCHES = 16  # steps whose latents tell the scaling factor of a VAE trained from nothing


class FrameSequences(Dataset):
    """Sequences of consecutive frames: (F, 3, H, W) uint8 RGB, with the noise that draws their latents.

    A frame that cannot be read gives the message instead.

    Args:
        clips: the frames of each clip.
        size: (width, height).
        latent_shape: (C, h, w) of one frame.
    """

    def __init__(
        self, clips: Sequence[list[Path]], size: tuple[int, int], frames: int, latent_shape: Sequence[int], seed: int
    ):
        self.clips, self.size, self.frames, self.latent_shape, self.seed = clips, size, frames, latent_shape, seed

    def __getitem__(self, key: SampleKey) -> tuple[torch.Tensor, torch.Tensor] | str:
        stream, clip = random_stream(self.seed, Purpose.FRAMES, key.step, key.slot), self.clips[key.clip]
        start = int(stream.integers(len(clip) - self.frames + 1))
        try:
            pixels = stack_images(
                load_image(path, self.size, "RGB", Image.Resampling.LANCZOS)
                for path in clip[start : start + self.frames]
            )
        except ClipError as error:
            return f"{clip[start].parent}: {error}"
        noise = random_stream(self.seed, Purpose.NOISE, key.step, key.slot).standard_normal(
            (self.frames, *self.latent_shape)
        )
        return pixels, torch.from_numpy(noise).float()


class VaeLoss(nn.Module):
    """A VAE with its loss, one module as distributed training wants it.

    The loss is the mean absolute error of the reconstruction, plus `kl_weight` times the divergence of the posterior
    from a standard normal distribution (arXiv 1312.6114, appendix B). Other VAEs have no variance; where one has a
    teacher's latents to learn, its encoder is drawn to them and its decoder decodes them.

    Args:
        vae: the model.
        kl_weight: of the divergence, a mean over latent numbers.
    """

    def __init__(self, vae: nn.Module, kl_weight: float):
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(
        self, pixels: torch.Tensor, noise: torch.Tensor, taught: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch.

        Args:
            pixels: (B, F, 3, H, W) in −1..1.
            noise: (B, F, C, h, w).
            taught: (B, F, C, h, w), a teacher's scaled latents, or None.

        Returns:
            The mean loss, and the latents (B·F, C, h, w) without their graph.
        """
        frames, images = pixels.shape[1], pixels.flatten(0, 1)
        if isinstance(self.vae, AutoencoderKLTemporalDecoder):
            posterior = self.vae.encode(images).latent_dist
            latents = sample_posterior(posterior.parameters, noise.flatten(0, 1))
            decoded = self.vae.decode(latents, num_frames=frames).sample
            divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
            return F.l1_loss(decoded, images) + self.kl_weight * divergence, latents.detach()
        latents = encode_frames(self.vae, images).chunk(2, dim=1)[0]
        target = latents if taught is None else taught.flatten(0, 1)
        loss = F.l1_loss(self.vae.decode(target).sample, images)
        return loss + (0 if taught is None else F.mse_loss(latents, target)), latents.detach()


def train_vae(settings: VaeSettings, clips: list[list[Path]]) -> None:
    """Train, and write `checkpoint-N/vae/`, a diffusers folder, to the output folder.

    Where the start is a config without weights, the scaling factor that is written makes latents of unit deviation.

    Args:
        settings: of the run.
        clips: what `settings.read_inputs()` returned.

    Raises:
        InputError: a checkpoint, a device or a frame does not do.
        NonFiniteError: the loss is no number.
    """
    accelerator, output_dir = make_accelerator(settings), Path(settings.output_dir)
    device = accelerator.device
    vae, is_new = new_vae(settings.vae, settings.seed)
    teacher = load_vae(settings.teacher).to(device) if settings.teacher is not None else None
    if teacher is not None and isinstance(vae, AutoencoderKLTemporalDecoder):
        raise InputError("--teacher is for a VAE without variance, which learns another VAE's latents; leave it out")
    with torch.no_grad():  # sizes of latents, whatever the class
        _, channels, *size = encode_frames(vae, torch.zeros(1, 3, settings.height, settings.width)).shape
    shape = (channels // 2, *size)
    batch_size = settings.per_gpu_batch_size * settings.gradient_accumulation_steps * accelerator.num_processes
    plan = SamplePlan([len(clips)], batch_size, settings.seed)
    model = VaeLoss(vae.requires_grad_(True).train(), settings.kl_weight)
    trainable = dict(vae.named_parameters())
    optimizer = make_optimizer(settings, list(trainable.values()), settings.learning_rate)
    model, optimizer = accelerator.prepare(model, optimizer)
    state = checkpoints.TrainingState(optimizer.optimizer, trainable, None, accelerator.scaler)

    step, spread = 0, []
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_partial(output_dir)
    accelerator.wait_for_everyone()
    if settings.resume_from_checkpoint is not None:
        folder = checkpoints.find_checkpoint(settings.resume_from_checkpoint, output_dir)
        if folder is not None:
            position = state.read(folder)
            step, spread = position["step"], position["spread"]
    journal = Journal(accelerator, output_dir)
    journal.start(step, asdict(settings))

    def save() -> None:
        """Write the checkpoint of the current step."""
        if accelerator.is_main_process:
            partial = checkpoints.partial_folder(output_dir, step)
            checkpoints.begin_checkpoint(partial)
            if is_new and isinstance(vae, AutoencoderKLTemporalDecoder):
                vae.register_to_config(scaling_factor=round(1 / (sum(spread) / len(spread)), 6))
            vae.save_pretrained(partial / "vae")
            state.write(partial, {"step": step, "spread": spread})
            checkpoints.finish_checkpoint(partial, settings.checkpoints_total_limit)
        accelerator.wait_for_everyone()

    keys = MicroBatches(
        plan,
        step,
        settings.max_train_steps,
        settings.per_gpu_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
    )
    dataset = FrameSequences(clips, (settings.width, settings.height), settings.sample_n_frames, shape, settings.seed)
    batches = iter(
        DataLoader(
            dataset,
            batch_sampler=keys,
            num_workers=settings.num_workers,
            collate_fn=list,
            worker_init_fn=ignore_interrupts,
        )
    )
    progress = tqdm(
        total=settings.max_train_steps,
        initial=step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    with progress:
        while step < settings.max_train_steps:
            started, total, deviation, norm = time.perf_counter(), torch.zeros((), device=device), 0.0, math.nan
            for _ in range(settings.gradient_accumulation_steps):
                samples = next(batches)
                for sample in samples:
                    if isinstance(sample, str):
                        raise InputError(f"{sample}; mend or remove it")
                pixels, noise = (torch.stack(tensors).to(device) for tensors in zip(*samples, strict=True))
                pixels = to_unit_range(pixels)
                with accelerator.accumulate(model):
                    loss, latents = model(pixels, noise, _teach(teacher, pixels))
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm or math.inf)
                    optimizer.step()
                    optimizer.zero_grad()
                total += loss.detach() / settings.gradient_accumulation_steps
                deviation += latents.float().std() / settings.gradient_accumulation_steps
            step += 1
            value = float(accelerator.reduce(total, "mean"))
            if not math.isfinite(value):
                raise NonFiniteError(f"the loss is {value} at step {step}; try a smaller --learning_rate")
            spread = [*spread, float(accelerator.reduce(deviation, "mean"))][-SCALING_BATCHES:]
            rate = batch_size / (time.perf_counter() - started)
            journal.write(step, {"loss": value, "grad_norm": float(norm), "samples_per_second": rate})
            progress.set_postfix(loss=f"{value:.4g}")
            progress.update()
            if step % settings.checkpointing_steps == 0 or step == settings.max_train_steps:
                save()
    accelerator.end_training()


@torch.no_grad()
def _teach(teacher: nn.Module | None, pixels: torch.Tensor) -> torch.Tensor | None:
    """The teacher's scaled latents, (B, F, 3, H, W) → (B, F, C, h, w)."""
    if teacher is None:
        return None
    latents = teacher.encode(pixels.flatten(0, 1)).latent_dist.mode() * teacher.config.scaling_factor
    return latents.unflatten(0, pixels.shape[:2])
