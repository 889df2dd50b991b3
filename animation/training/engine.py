"""What training runs on: processes, devices and number format by accelerate; the optimizer."""

import importlib
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import GradientAccumulationPlugin, GradScalerKwargs, ProjectConfiguration

from animation.errors import InputError
from animation.training.muon import Muon
from animation.training.settings import TrainingSettings

# In fp16 the first steps from Stable Video Diffusion, whose face tokens are zero, overflow at any but a small scale of
# the loss, at which later gradients vanish: it grows again in some hundred steps, not in torch's ten thousands.
SCALE_GROWTH_STEPS = 100


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """Start accelerate. Raises InputError where the device does not compute in the number format."""
    steps = settings.gradient_accumulation_steps
    accelerator = Accelerator(
        cpu=settings.cpu,
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=steps, sync_with_dataloader=False),
        log_with=None if settings.report_to == "none" else settings.report_to,
        project_config=ProjectConfiguration(settings.output_dir, str(Path(settings.output_dir) / settings.logging_dir)),
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            GradScalerKwargs(growth_interval=SCALE_GROWTH_STEPS),
        ],
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("--mixed_precision fp16 on a CPU: it has no fast half-precision arithmetic; use bf16 or no")
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:  # DeepSpeed would else read it off a loader of accelerate's
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = settings.per_gpu_batch_size
    if settings.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return accelerator


def make_optimizer(
    settings: TrainingSettings, parameters: list, learning_rate: float, low_precision: bool = False
) -> torch.optim.Optimizer:
    """AdamW, in 8 bits where asked for, or Muon, whose products are in bf16 with `low_precision`.

    Raises:
        InputError: bitsandbytes does not work here.
    """
    options: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer == "muon":
        return Muon(parameters, torch.bfloat16 if low_precision else torch.float32, **options)
    if not settings.use_8bit_adam:
        return torch.optim.AdamW(parameters, **options)
    try:
        return importlib.import_module("bitsandbytes.optim").AdamW8bit(parameters, **options)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"--use_8bit_adam: bitsandbytes fails here ({error}); leave the flag out") from None
