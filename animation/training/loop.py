"""The training loop: one process on a CPU, many GPUs and many machines from the same code, by accelerate."""

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from accelerate.utils import DistributedType, gather_object, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from animation import cli
from animation.errors import InputError, NonFiniteError, RunError
from animation.files import locked
from animation.flags import LATENTS
from animation.runtime import DTYPES, is_out_of_memory
from animation.training import checkpoint as checkpoints
from animation.training import model as models
from animation.training.check import check_share
from animation.training.clips import Bucket
from animation.training.dataset import ClipDataset, Sample, ignore_interrupts, make_batch
from animation.training.engine import make_accelerator, make_optimizer
from animation.training.journal import Journal
from animation.training.plan import MicroBatches, SamplePlan
from animation.training.settings import TrainingSettings
from animation.training.step import FrozenEncoders, training_step
from animation.training.validation import Validation

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds; a launcher passes on an interrupt that its processes have had already
PROBE_SIZE = 64  # pixels a side of a picture that is encoded to see the latents' size
MEMORY_LEVERS = (
    "--gradient_checkpointing, --mixed_precision bf16, --use_8bit_adam, --cache_latents, fewer --sample_n_frames, "
    "smaller buckets, --lora_rank 16 with --finetune_mode"
)


def train(settings: TrainingSettings, buckets: list[Bucket]) -> None:
    """Train, and write checkpoints, validation videos and the log to `settings.output_dir`.

    Args:
        buckets: what `settings.read_inputs()` returned.

    Raises:
        InputError: a checkpoint, a device or the data does not do, or another run is at work in the folder.
        RunError: memory did not suffice, or NaN appeared.
    """
    trainer = Trainer(settings, buckets)
    try:
        with locked(trainer.output_dir) if trainer.is_main else contextlib.nullcontext():
            trainer.run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"out of memory on {trainer.accelerator.device}; these help: {MEMORY_LEVERS}") from None
    finally:
        trainer.accelerator.end_training()


class Trainer:
    """Everything that a run holds between steps."""

    def __init__(self, settings: TrainingSettings, buckets: list[Bucket]):
        self.settings, self.buckets = settings, buckets
        self.accelerator = make_accelerator(settings)
        self.output_dir = Path(settings.output_dir)
        self.is_main = self.accelerator.is_main_process
        # Whether parameters or optimizer states are spread over the processes.
        self.sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if not self.is_main:
            logging.getLogger("animation").setLevel(logging.WARNING)
        set_seed(settings.seed)  # nothing below draws from global generators; libraries might
        # Samples of one optimizer step, over all processes and accumulated batches.
        accumulated = settings.per_gpu_batch_size * settings.gradient_accumulation_steps
        self.batch_size = accumulated * self.accelerator.num_processes
        sizes = [len(bucket.clips) for bucket in buckets]
        self.plan = SamplePlan(sizes, self.batch_size, settings.seed, repeat=settings.overfit)
        self.max_steps = settings.max_train_steps or settings.num_train_epochs * self.plan.steps_per_epoch
        self.bad_clips: dict[str, str] = {}  # and why, known to all processes
        self.journal = Journal(self.accelerator, self.output_dir)
        self.step = 0
        self.interrupted: float | None = None  # when this process was first told to stop
        self.stopping = False  # all processes, after this step
        self.superseded: Path | None = None  # a checkpoint between two regular ones, kept until the next is whole
        self._load_models()
        self._prepare()
        case = settings.read_validation() if self.is_main else None
        self.validation = None
        if case is not None:
            self.validation = Validation(settings, case, buckets, self.svd, self.channel_order)

    def _load_models(self) -> None:
        settings, device = self.settings, self.accelerator.device
        self.channel_order = models.choose_channel_order(settings)
        self.parts, self.svd = models.load_models(settings)
        if settings.gradient_checkpointing:
            self.parts.unet.enable_gradient_checkpointing()
        self.adapter_scale = models.choose_trainable(self.parts, settings)
        dtype = DTYPES.get(self.accelerator.mixed_precision, torch.float32)
        self.exact: dict[str, torch.Tensor] = {}  # frozen weights as they were read, for the checkpoints
        if dtype != torch.float32 and not self.sharded:  # sharded ones are cast and gathered by their engines
            exact = models.convert_frozen(self.parts, dtype)
            self.exact = exact if self.is_main else {}
        vae = self.svd["vae"]
        self.svd["vae"] = vae.to(device, torch.float32 if vae.config.get("force_upcast", True) else dtype)
        self.svd["image_encoder"] = self.svd["image_encoder"].to(device, dtype)
        self.encoders = FrozenEncoders(self.svd["vae"], self.svd["image_encoder"], self.svd["feature_extractor"])
        probe = self.encoders.moments(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))  # (1, 2·C, h, w)
        self.dataset = ClipDataset(
            settings,
            self.buckets,
            batch_size=self.batch_size,
            channel_order=self.channel_order,
            latent_channels=probe.shape[1] // 2,
            latent_scale=PROBE_SIZE // probe.shape[-1],
        )

    def _prepare(self) -> None:
        settings = self.settings
        self.trainable = {name: p for name, p in self.parts.named_parameters() if p.requires_grad}
        trained, total = (sum(p.numel() for p in ps) for ps in (self.trainable.values(), self.parts.parameters()))
        batches = f"in batches of {self.batch_size}; faces in {self.channel_order} order"
        logger.info(f"{trained} of {total} parameters are trained, {batches}")
        self.learning_rate = settings.learning_rate * (self.batch_size if settings.scale_lr else 1)
        if settings.optimizer == "muon" and self.sharded:
            raise InputError("--optimizer muon: not for weights that are spread over processes (FSDP, DeepSpeed)")
        low_precision = self.accelerator.mixed_precision in ("bf16", "fp16")
        optimizer = make_optimizer(settings, list(self.trainable.values()), self.learning_rate, low_precision)
        # The rate is a pure function of the step: the schedule's own counter is never used.
        self.lr_factor = get_scheduler(
            settings.lr_scheduler,
            optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=self.max_steps,
        ).lr_lambdas[0]
        self.model, self.optimizer = self.accelerator.prepare(self.parts, optimizer)
        if settings.use_ema and self.sharded:
            raise InputError("--use_ema: not for weights that are spread over processes (FSDP, DeepSpeed)")
        self.ema = EMAModel(list(self.trainable.values())) if settings.use_ema else None
        self.state = checkpoints.TrainingState(
            None if self.sharded else getattr(self.optimizer, "optimizer", self.optimizer),
            self.trainable,
            self.ema,
            self.accelerator.scaler,
        )

    def _identity(self) -> dict:
        """What must be equal for a resumed run to be as one that was never stopped."""
        clips = [len(bucket.clips) for bucket in self.buckets]
        return {"batch_size": self.batch_size, "clips": clips, **self.settings.affecting(LATENTS)}

    def save(self) -> None:
        """Write the checkpoint of the current step; all processes call it."""
        accelerator = self.accelerator
        partial = self.output_dir / f"checkpoint-{self.step}{checkpoints.PARTIAL_SUFFIX}"
        if self.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / checkpoints.STATE_FOLDER).mkdir(parents=True)
        accelerator.wait_for_everyone()
        weights = accelerator.get_state_dict(self.model)
        if self.sharded:
            accelerator.save_state(str(partial / checkpoints.SHARDS_FOLDER))
            accelerator.wait_for_everyone()  # each writes its part before the folder gets its name
        if self.is_main:
            properties = {
                "face_channel_order": self.channel_order,
                "step": self.step,
                "sizes": [str(bucket) for bucket in self.buckets],
                "settings": asdict(self.settings),
            }
            weights = {**weights, **self.exact, **self.state.averages()}
            checkpoints.write_parts(partial, models.split_parts(weights, self.adapter_scale), properties)
            position = {"step": self.step, "run": self._identity(), "bad_clips": self.bad_clips}
            passing = self.stopping and self.step % self.settings.checkpointing_steps != 0
            self.state.write(partial, position | {"passing": passing})
            checkpoints.finish_checkpoint(partial, self.settings.checkpoints_total_limit, self.superseded)
        self.superseded = None
        accelerator.wait_for_everyone()

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError."""
        if self.sharded:
            self.accelerator.load_state(str(folder / checkpoints.SHARDS_FOLDER))
        position = self.state.read(folder)
        changed = [name for name, value in self._identity().items() if position["run"].get(name, value) != value]
        if changed:
            goes_on = "the run goes on, but not as if it had never stopped"
            logger.warning(f"{folder} was made with other settings ({', '.join(changed)}): {goes_on}")
        self.step, self.bad_clips = position["step"], position["bad_clips"]
        if position.get("passing") and self.settings.resume_from_checkpoint == "latest":
            self.superseded = folder
        logger.info(f"resumed from {folder}")

    def run(self) -> None:
        """All steps that are left."""
        settings = self.settings
        if self.is_main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            for partial in self.output_dir.glob(f"checkpoint-*{checkpoints.PARTIAL_SUFFIX}"):  # of a killed run
                shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        if settings.resume_from_checkpoint is not None:
            folder = checkpoints.find_checkpoint(settings.resume_from_checkpoint, self.output_dir)
            if folder is not None:
                self.resume(folder)
            else:
                logger.info(f"no checkpoint in {self.output_dir} yet: starting from the beginning")
        self.journal.start(self.step, asdict(settings))
        batches = iter(self._loader())
        saved = self.step
        progress = tqdm(total=self.max_steps, initial=self.step, desc="training", unit="step", disable=not self.is_main)
        with progress, cli.handled(cli.ending_signals(), self._note_interrupt):
            while self.step < self.max_steps:
                started = time.perf_counter()
                loss, grad_norm, rate = self._optimize(batches)
                self.step += 1
                values = {
                    "loss": loss,
                    "learning_rate": rate,
                    "grad_norm": grad_norm,
                    "samples_per_second": self.batch_size / (time.perf_counter() - started),
                    "bad_clips": len(self.bad_clips),
                }
                self.journal.write(self.step, values)
                progress.set_postfix(loss=f"{loss:.4g}")
                progress.update()
                if self.step % settings.checkpointing_steps == 0 or self.stopping:
                    self.save()
                    saved = self.step
                if self.stopping and self.step < self.max_steps:
                    logger.info(f"checkpoint-{self.step} is kept; --resume_from_checkpoint latest goes on from there")
                    raise cli.Interrupted
                if self.step % settings.validation_steps == 0:
                    self._validate()
        if saved != self.step:
            self.save()

    def _note_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Let the step at work be finished and kept; whoever insists seconds later, ends the run at once."""
        now = time.monotonic()
        if self.interrupted is None:
            self.interrupted = now
        elif now - self.interrupted > PATIENCE:
            raise cli.Interrupted

    def _loader(self) -> DataLoader:
        batches = MicroBatches(
            self.plan,
            first_step=self.step,
            last_step=self.max_steps,
            per_process=self.settings.per_gpu_batch_size,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=self.settings.num_workers,
            collate_fn=list,
            worker_init_fn=ignore_interrupts,
        )

    def _optimize(self, batches: Iterator[list[Sample]]) -> tuple[float, float, float]:
        """One optimizer step: its loss, gradient norm and learning rate."""
        settings, accelerator = self.settings, self.accelerator
        rate = self.learning_rate * self.lr_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total, grad_norm = torch.zeros((), device=accelerator.device), math.nan
        bad: dict[str, str] = {}
        for _ in range(settings.gradient_accumulation_steps):
            samples = next(batches)
            for sample in samples:
                bad |= sample.bad_clips
                if not sample.tensors:
                    tries = f"no usable clip in {len(bad)} tries; run --check_data"
                    raise RunError(f"{tries}: {cli.listed([f'{clip}: {reason}' for clip, reason in bad.items()], 3)}")
            self.dataset.encode_missing(samples, self.encoders, accelerator.device)
            batch = make_batch(samples, accelerator.device)
            with accelerator.accumulate(self.model):
                result = training_step(
                    self.model,
                    self.encoders,
                    batch,
                    settings.conditioning_dropout_prob,
                    settings.face_loss_weight,
                    settings.temporal_loss_weight,
                )
                mean = result.losses.mean()
                total += mean.detach() / settings.gradient_accumulation_steps
                accelerator.backward(mean)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm or math.inf)
                    grad_norm = math.nan if norm is None else float(norm)  # an engine that clips by itself says nothing
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.trainable.values())
        self._leave_out(bad)
        # With the loss, what any process was told: all stop after the same step.
        told = torch.tensor(float(self.interrupted is not None), device=total.device)
        loss, stop = accelerator.reduce(torch.stack([total, told]), "mean").tolist()
        self.stopping = stop > 0
        if not math.isfinite(loss):
            remedy = "try --mixed_precision bf16 or no, a smaller --learning_rate, and resume from the last checkpoint"
            raise NonFiniteError(f"the loss is {loss} at step {self.step + 1}; {remedy}")
        return loss, grad_norm, rate

    def _leave_out(self, found: dict[str, str]) -> None:
        """Tell all processes which clips each could not use. Raises InputError where they are too many."""
        total = sum(len(bucket.clips) for bucket in self.buckets)
        for clip, reason in gather_object(list(found.items())):
            if clip not in self.bad_clips:
                self.bad_clips[clip] = reason
                logger.info(f"skipped: {clip}: {reason} ({len(self.bad_clips)} of {total} clips so far)")
        check_share(self.bad_clips, total, self.settings.max_bad_clips)

    def _validate(self) -> None:
        """Make the validation video on the first process, with averaged weights where they are kept."""
        if self.validation is not None and self.sharded:
            logger.warning("no validation video: the weights are spread over the processes")
        elif self.validation is not None:
            folder = self.output_dir / "validation" / f"step-{self.step}"
            if self.ema is not None:
                self.ema.store(self.trainable.values())
                self.ema.copy_to(self.trainable.values())
            try:
                with self.accelerator.autocast(), torch.no_grad():
                    frames, values = self.validation.run(self.parts, folder)
            finally:
                if self.ema is not None:
                    self.ema.restore(self.trainable.values())
            if values:
                self.journal.write(self.step, {f"validation/{name}": value for name, value in values.items()})
                logger.info(f"step {self.step}: {', '.join(f'{name} {v:.4g}' for name, v in values.items())}")
            self.journal.show(self.step, "validation/frames", frames)
        self.accelerator.wait_for_everyone()
