"""Muon: steps along the momentum of each weight matrix, made orthogonal."""

from collections.abc import Callable, Iterable

import torch

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of x, x³ and x⁵: singular values in 0…1 soon come near 1
ITERATIONS = 5
MOMENTUM = 0.95
ADAMW_SIZE = 0.2  # root mean square of AdamW's usual update, in learning rates


def orthogonalise(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns, about: its singular values are 0.7 to 1.2.

    Newton and Schulz's iteration, computed in `dtype`, (A, B) → (A, B). Singular values far below the largest stay
    below 0.7, and zeros stay zero.
    """
    wide = (matrix if len(matrix) <= matrix.shape[1] else matrix.T).to(dtype)
    wide = wide / wide.norm().clamp(min=1e-7)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = linear * wide + (cubic * gram + quintic * gram @ gram) @ wide
    return (wide if len(matrix) <= matrix.shape[1] else wide.T).to(matrix.dtype)


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for matrices and convolutions' kernels, AdamW for biases and norms.

    Steps have the size of AdamW's (Liu et al., arXiv 2502.16982, equation 4), so that one learning rate does for both.

    Args:
        parameters: whole, not sharded.
        dtype: what matrices are orthogonalised in; bfloat16 suffices where it is fast.
        adamw: AdamW's own arguments.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype, **adamw):
        super().__init__(parameters, **adamw)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> torch.Tensor | None:  # type: ignore[override]
        """Change all parameters that have a gradient; those of matrices are used up."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim > 1 and parameter.grad is not None:
                    self._step_matrix(parameter, group["lr"], group["weight_decay"])
                    parameter.grad = None  # AdamW passes it over
        super().step()
        return loss

    def _step_matrix(self, parameter: torch.nn.Parameter, rate: float, decay: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}  # AdamW wants a step
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(state["momentum"], MOMENTUM).flatten(1)  # Nesterov's
        size = ADAMW_SIZE * max(ahead.shape) ** 0.5
        parameter.mul_(1 - rate * decay).sub_(rate * size * orthogonalise(ahead, self.dtype).reshape(parameter.shape))
