"""Each cheaper part of the UNet computes what diffusers' own does; each control differs."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from animation.modules.attention_processor import ImageTokenAttnProcessor
from animation.modules.blocks import ECONOMIES, Blend, Gate, TemporalBlock, Transformer, economise
from tests.conftest import relative_error
from tests.synthetic import randomise

PLAIN = {ours: plain for plain, ours in ECONOMIES.items()}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(samples=2, frames=3, side=8):
    return random(samples, frames, 8, side, side), torch.tensor(0.4), random(samples, 5, 64, seed=1)


@pytest.mark.parametrize("samples", [1, 2])
@torch.no_grad()
def test_a_network_of_cheaper_parts_computes_the_same(components, samples):
    unet, plain = components["unet"], copy.deepcopy(components["unet"])
    economise(plain, PLAIN)
    assert not {type(part) for part in plain.modules()} & set(PLAIN)
    assert {type(part) for part in unet.modules()} >= set(PLAIN)
    assert unet.state_dict().keys() == plain.state_dict().keys()
    time_ids = torch.tensor([[6, 127, 0.02]]).expand(samples, -1)
    found, expected = (net(*inputs(samples), time_ids).sample for net in (unet, plain))
    assert relative_error(found, expected) < 1e-5


@torch.no_grad()
def test_processors_that_ask_for_a_query_get_one(components):
    """Temporal attention to all tokens, which the cheaper block must not take for attention to one."""
    unets = [copy.deepcopy(components["unet"]) for _ in range(2)]
    economise(unets[1], PLAIN)
    time_ids = torch.tensor([[6, 127, 0.02]]).expand(2, -1)
    before = unets[0](*inputs(), time_ids).sample
    for unet in unets:
        unet.set_attn_processor(
            {
                name: AttnProcessor2_0() if isinstance(processor, ImageTokenAttnProcessor) else processor
                for name, processor in unet.attn_processors.items()
            }
        )
    found, expected = (unet(*inputs(), time_ids).sample for unet in unets)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(found, before) > 1e-3


def test_gradients_are_those_of_the_plain_parts(components):
    unets = [copy.deepcopy(components["unet"]).requires_grad_(True) for _ in range(2)]
    economise(unets[1], PLAIN)
    time_ids = torch.tensor([[6, 127, 0.02]]).expand(2, -1)
    for unet in unets:
        unet(*inputs(), time_ids).sample.square().mean().backward()
    for (name, ours), plain in zip(unets[0].named_parameters(), unets[1].parameters(), strict=True):
        if plain.grad is not None and plain.grad.norm() > 1e-6:
            assert relative_error(ours.grad, plain.grad) < 1e-2, name


@torch.no_grad()
def test_a_gate_is_a_product_of_its_halves():
    gate = randomise(Gate(6, 10), 1)
    states = random(2, 5, 6)
    hidden, other = gate.proj(states).chunk(2, dim=-1)
    torch.testing.assert_close(gate(states), hidden * torch.nn.functional.gelu(other))
    assert not torch.allclose(gate(states), other * torch.nn.functional.gelu(hidden))


@torch.no_grad()
def test_a_blend_is_a_weighted_mean():
    blend = Blend(alpha=0.3, merge_strategy="fixed")
    torch.testing.assert_close(blend(torch.ones(2, 3, 4), torch.zeros(2, 3, 4)), torch.full((2, 3, 4), 0.3))
    blend = Blend(alpha=0.3, merge_strategy="fixed", switch_spatial_to_temporal_mix=True)
    torch.testing.assert_close(blend(torch.ones(2, 3, 4), torch.zeros(2, 3, 4)), torch.full((2, 3, 4), 0.7))


@torch.no_grad()
def test_features_stay_channels_last(components):
    layouts = []
    unet = copy.deepcopy(components["unet"])
    for part in unet.modules():
        if isinstance(part, (Transformer, torch.nn.Conv2d)):
            part.register_forward_hook(
                lambda _part, _inputs, output: layouts.append(
                    (output[0] if isinstance(output, tuple) else output).is_contiguous(
                        memory_format=torch.channels_last
                    )
                )
            )
    unet(*inputs(side=16), torch.tensor([[6, 127, 0.02]]).expand(2, -1))  # one pixel would have no layout
    assert len(layouts) > 10
    assert all(layouts)
    assert any(isinstance(part, TemporalBlock) for part in unet.modules())
