"""Muon: steps along the momentum of each weight matrix, made orthogonal."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist

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
    Processes of one group, which have the same gradients, share the work: each makes some of the matrices orthogonal.

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
        together = dist.is_available() and dist.is_initialized()
        processes = dist.get_world_size() if together else 1
        for group in self.param_groups:
            matrices = [parameter for parameter in group["params"] if parameter.ndim > 1 and parameter.grad is not None]
            matrices.sort(key=torch.numel)  # those of one round are of about one size
            for first in range(0, len(matrices), processes):
                self._step_matrices(matrices[first : first + processes], group["lr"], group["weight_decay"], together)
        super().step()
        return loss

    def _step_matrices(
        self, parameters: Sequence[torch.nn.Parameter], rate: float, decay: float, together: bool
    ) -> None:
        """Change at most one matrix a process, whose direction the others get from it."""
        rank = dist.get_rank() if together else 0
        ahead = [self._look_ahead(parameter) for parameter in parameters]
        directions = [
            orthogonalise(matrix, self.dtype).contiguous() if owner == rank else torch.empty_like(matrix)
            for owner, matrix in enumerate(ahead)
        ]
        for owner, (parameter, direction) in enumerate(zip(parameters, directions, strict=True)):
            if together:
                dist.broadcast(direction, src=owner)
            size = ADAMW_SIZE * max(direction.shape) ** 0.5
            parameter.mul_(1 - rate * decay).sub_(rate * size * direction.reshape(parameter.shape))
            parameter.grad = None  # AdamW passes it over

    def _look_ahead(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Nesterov's momentum with the newest gradient, flattened to (A, B)."""
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}  # AdamW wants a step
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM).flatten(1)
