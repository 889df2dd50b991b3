"""Muon: orthogonal steps of matrices, AdamW's steps of everything else."""

import pytest
import torch

from animation.training.muon import ADAMW_SIZE, MOMENTUM, Muon, orthogonalise

FORMATS = (torch.float32, torch.bfloat16)


def random_matrix(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (1, 9), (24, 32)])
def test_singular_values_come_near_one(shape, dtype):
    """Against the exact polar factor, U·Vᵀ of the singular value decomposition."""
    matrix = random_matrix(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix, dtype)
    assert found.dtype == torch.float32
    near = torch.linalg.svdvals(found)
    assert 0.65 < near.min() <= near.max() < 1.25
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.98
    if min(shape) > 1:
        assert values.max() / values.min() > 1.25 / 0.65  # a control: they were further apart


def test_the_scale_of_a_gradient_does_not_matter_and_zeros_stay():
    matrix = random_matrix(8, 12)
    torch.testing.assert_close(orthogonalise(1e-4 * matrix, torch.float32), orthogonalise(matrix, torch.float32))
    assert not orthogonalise(torch.zeros(8, 12), torch.float32).any()


def test_steps_of_matrices_kernels_and_vectors():
    """Two steps against the equations; vectors against AdamW."""
    rate, decay = 0.1, 0.5
    shapes = {"matrix": (4, 6), "kernel": (4, 2, 3, 3), "vector": (5,)}
    start = {name: random_matrix(1, torch.Size(shape).numel()).reshape(shape) for name, shape in shapes.items()}
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    optimizer = Muon(parameters.values(), torch.float32, lr=rate, weight_decay=decay)
    plain = torch.nn.Parameter(start["vector"].clone())
    adamw = torch.optim.AdamW([plain], lr=rate, weight_decay=decay)
    expected = {name: start[name].clone() for name in ("matrix", "kernel")}
    momentum = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    for step in range(2):
        for name, parameter in parameters.items():
            parameter.grad = torch.full_like(parameter, 0.3).addcmul_(start[name], torch.tensor(step + 1.0))
        plain.grad = parameters["vector"].grad.clone()
        for name, value in expected.items():
            gradient = parameters[name].grad
            momentum[name] = MOMENTUM * momentum[name] + (1 - MOMENTUM) * gradient
            ahead = ((1 - MOMENTUM) * gradient + MOMENTUM * momentum[name]).flatten(1)
            size = ADAMW_SIZE * max(ahead.shape) ** 0.5
            direction = orthogonalise(ahead, torch.float32).reshape(value.shape)
            expected[name] = (1 - rate * decay) * value - rate * size * direction
        optimizer.step()
        adamw.step()
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name].data, value)
        assert not torch.allclose(start[name], value, atol=1e-2)  # a control
    torch.testing.assert_close(parameters["vector"], plain)


def test_a_step_has_the_size_of_adamws():
    """0.2 learning rates a number, in a wide matrix as in a tall one."""
    for shape in ((32, 256), (256, 32)):
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = random_matrix(*shape)
        Muon([parameter], torch.float32, lr=0.01, weight_decay=0).step()
        assert parameter.detach().square().mean().sqrt() == pytest.approx(0.01 * ADAMW_SIZE, rel=0.2)


def test_a_closure_is_evaluated_with_gradients():
    parameter = torch.nn.Parameter(random_matrix(4, 4))

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    before = parameter.detach().clone()
    assert Muon([parameter], torch.float32, lr=0.1).step(closure) == before.square().sum()
    assert not torch.equal(parameter, before)
