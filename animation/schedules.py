"""Which noise levels a video is sampled at, and at which steps what is computed."""

import math
from collections.abc import Sequence

import numpy as np
from diffusers import EulerDiscreteScheduler
from diffusers.schedulers import AysSchedules

SMALLEST_SIGMA = 0.002  # SVD's, where the published table ends
EVERYWHERE = (0.0, math.inf)


def ays_sigmas(num_steps: int, smallest: float = SMALLEST_SIGMA) -> list[float]:
    """Align Your Steps' noise levels for SVD (Sabour 2024), `num_steps` of them and a last 0, descending.

    The published table has 10 steps; other numbers are interpolated on a logarithmic scale, as its authors say. What
    is below `smallest`, which is above 0, is cut off the table.
    """
    table = [*(sigma for sigma in AysSchedules["StableDiffusionVideoSigmas"] if sigma > smallest), smallest]
    at = np.linspace(0, 1, num_steps + 1)
    return [*np.exp(np.interp(at, np.linspace(0, 1, len(table)), np.log(table)))[:-1].tolist(), 0.0]


def set_timesteps(scheduler: EulerDiscreteScheduler, num_steps: int, schedule: str, device) -> None:
    """Set a scheduler's noise levels: its own (`karras`), or `ays_sigmas` down to its smallest (`ays`)."""
    if schedule == "ays":
        smallest = scheduler.config.sigma_min or SMALLEST_SIGMA
        scheduler.set_timesteps(sigmas=ays_sigmas(num_steps, smallest), device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)


def guided_steps(sigmas: Sequence[float], interval: Sequence[float]) -> list[bool]:
    """At which steps there is guidance: where the noise level is in an interval (Kynkäänniemi 2024)."""
    return [interval[0] <= sigma <= interval[1] for sigma in sigmas]


def whole_steps(guided: Sequence[bool], every: int) -> list[bool]:
    """At which steps the whole UNet runs, where its deep layers run at every so many steps (Ma 2024, DeepCache).

    Also where guidance begins or ends, since nothing of the other branch is kept from the step before.
    """
    return [step % every == 0 or guided[step] != guided[step - 1] for step in range(len(guided))]
