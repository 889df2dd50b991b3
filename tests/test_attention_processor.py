"""Each rewrite of cross-attention equals the plain formula; each control differs."""

import copy
import itertools

import accelerate
import pytest
import torch

from animation.modules import attention_processor
from animation.modules.attention_processor import (
    BatchLayout,
    IDAdapterAttnProcessor,
    ImageTokenAttnProcessor,
    align_distribution,
    folded_attention,
    folding_pays,
    plain_attention,
)
from benchmarks.naive import NaiveAttention, NaiveIDAdapter, naive_unet
from tests.conftest import relative_error
from tests.synthetic import randomise

HEADS, DIM, TOKEN_DIM, FRAMES, PIXELS = 2, 32, 24, 3, 10


@pytest.fixture
def attn():
    layer = attention_processor.Attention(DIM, cross_attention_dim=TOKEN_DIM, heads=HEADS, dim_head=DIM // HEADS)
    return randomise(layer, 1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def id_adapter(samples=0, unconditional=0):
    return randomise(IDAdapterAttnProcessor(DIM, TOKEN_DIM, BatchLayout(samples, unconditional)), 2)


def test_align_distribution_takes_mean_and_std_per_row():
    features, target = random(4, 7, 5) * 3 + 1, random(4, 7, 5, seed=1) * 0.5 - 2
    aligned = align_distribution(features, target)
    for row in range(4):
        assert aligned[row].mean().item() == pytest.approx(target[row].mean().item(), abs=1e-5)
        assert aligned[row].std().item() == pytest.approx(target[row].std().item(), rel=1e-4)
    assert not torch.allclose(aligned[0], align_distribution(features[:2].mean(0, keepdim=True), target[:1])[0])
    constant = align_distribution(torch.zeros(1, 7, 5), target[:1])
    torch.testing.assert_close(constant, target[:1].mean().expand(1, 7, 5))


@pytest.mark.parametrize("tokens", [1, 2, 4, 7])
@torch.no_grad()
def test_folded_and_plain_attention_equal_the_equations(attn, tokens):
    processor = id_adapter()
    hidden = random(FRAMES, PIXELS, DIM)
    states = random(1, 1 + tokens, TOKEN_DIM, seed=3)
    expected = NaiveIDAdapter(processor)(attn, hidden, states.expand(FRAMES, -1, -1))
    image_value = attn.to_v(states[:, :1])
    arguments = attn, hidden, image_value, processor.id_to_k(states[:, 1:]), processor.id_to_v(states[:, 1:])
    assert relative_error(plain_attention(*arguments), expected) < 1e-5
    assert relative_error(folded_attention(*arguments), expected) < 1e-5


@torch.no_grad()
def test_folded_statistics_survive_values_far_from_zero(attn):
    """The variance is a difference of squares: a common offset of the values must not drown it."""
    key, value = random(1, 4, DIM, seed=4), random(1, 4, DIM, seed=5) + 100
    arguments = attn, random(FRAMES, PIXELS, DIM), random(1, 1, DIM, seed=6), key, value
    assert relative_error(folded_attention(*arguments), plain_attention(*arguments)) < 1e-4


@pytest.mark.parametrize(("samples", "unconditional"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (3, 3)])
@torch.no_grad()
def test_unconditional_samples_equal_zero_tokens(attn, samples, unconditional):
    processor = id_adapter(samples, unconditional)
    hidden = random(samples * FRAMES, PIXELS, DIM)
    states = random(samples, 5, TOKEN_DIM, seed=3)
    states[:unconditional] = 0
    states = states.repeat_interleave(FRAMES, dim=0)
    expected = NaiveIDAdapter(processor)(attn, hidden, states)
    assert relative_error(processor(attn, hidden, states).expand_as(hidden), expected) < 1e-5

    temporal_hidden = random(samples * PIXELS, FRAMES, DIM)
    states = states[::FRAMES].repeat_interleave(PIXELS, dim=0)
    expected = NaiveAttention()(attn, temporal_hidden, states)
    found = ImageTokenAttnProcessor(processor.layout)(attn, temporal_hidden, states)
    assert relative_error(found.expand_as(temporal_hidden), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 10, 30, 100, 1000])
@torch.no_grad()
def test_half_precision_holds_values_of_any_scale(attn, scale, dtype):
    """The values' inner products grow with the square of their scale, and the alignment's factor with its inverse."""
    states = random(FRAMES, PIXELS, DIM), random(1, 1, DIM, seed=6), random(1, 4, DIM, seed=4)
    value = scale * random(1, 4, DIM, seed=5)
    expected = plain_attention(copy.deepcopy(attn).double(), *(x.double() for x in states), value.double())
    half = attn.to(dtype), *(x.to(dtype) for x in (*states, value))
    tolerance = 2e-3 if dtype == torch.float16 else 1.5e-2
    assert relative_error(folded_attention(*half), expected) < tolerance
    assert relative_error(plain_attention(*half), expected) < tolerance


@torch.no_grad()
def test_a_large_value_dims_no_small_ones_of_another_sample(attn):
    """Each sample's values have a scale of their own."""
    value = random(2, 4, DIM, seed=5) * torch.tensor([1000.0, 0.01])[:, None, None]
    states = random(2 * FRAMES, PIXELS, DIM), random(2, 1, DIM, seed=6), random(2, 4, DIM, seed=4), value
    expected = plain_attention(copy.deepcopy(attn).double(), *(x.double() for x in states))
    found = folded_attention(attn.half(), *(x.half() for x in states))
    for sample in (slice(0, FRAMES), slice(FRAMES, None)):
        assert relative_error(found[sample], expected[sample]) < 2e-3


@torch.no_grad()
def test_face_tokens_of_zero_add_the_mean_of_the_image_features(attn):
    """y = 0 is moved to the mean of z: the layer differs from one without face tokens by this constant alone."""
    hidden, token = random(FRAMES, PIXELS, DIM), random(FRAMES, 1, TOKEN_DIM, seed=3)[:1].expand(FRAMES, -1, -1)
    zeros = torch.cat([token, torch.zeros(FRAMES, 4, TOKEN_DIM)], dim=1)
    z = attn.to_v(token)
    expected = attn.to_out[0](z + z.mean((1, 2), keepdim=True)).expand_as(hidden)
    for samples, folding in ((0, True), (0, False), (1, True), (1, False)):
        processor = id_adapter(samples)
        processor.folding = folding
        torch.testing.assert_close(processor(attn, hidden, zeros), expected)
        assert relative_error(processor(attn, hidden, token), expected) > 1e-2  # not the same as no tokens


@torch.no_grad()
def test_controls_differ(attn, monkeypatch):
    processor = id_adapter()
    hidden, states = random(FRAMES, PIXELS, DIM), random(1, 5, TOKEN_DIM, seed=3).expand(FRAMES, -1, -1)
    expected = processor(attn, hidden, states)
    monkeypatch.setattr(attention_processor, "folding_pays", lambda *_: False)
    assert relative_error(processor(attn, hidden, states), expected) < 1e-5
    monkeypatch.setattr(attention_processor, "align_distribution", lambda features, target: features)
    assert relative_error(processor(attn, hidden, states), expected) > 1e-2
    monkeypatch.undo()
    other_face = states.clone()
    other_face[:, 1:] += 1
    assert relative_error(processor(attn, hidden, other_face), expected) > 1e-2


@torch.no_grad()
def test_temporal_layers_see_no_face_token(attn):
    processor = ImageTokenAttnProcessor()
    hidden, states = random(PIXELS, FRAMES, DIM), random(PIXELS, 5, TOKEN_DIM, seed=3)
    expected = processor(attn, hidden, states)
    states[:, 1:] += 1
    assert torch.equal(processor(attn, hidden, states), expected)
    states[:, 0] += 1
    assert not torch.allclose(processor(attn, hidden, states), expected)


def test_folding_is_for_inference_with_plain_layers(attn):
    with torch.no_grad():
        assert folding_pays(attn, 4)
        assert not folding_pays(attn, DIM)  # more tokens than a head is wide
        attn.to_q = torch.nn.Sequential(attn.to_q)
        assert not folding_pays(attn, 4)
    assert not folding_pays(attn, 4)


@torch.no_grad()
def test_folding_is_turned_on_and_off_for_the_whole_unet(components, monkeypatch):
    used = []
    for attend in (folded_attention, plain_attention):
        monkeypatch.setattr(
            attention_processor,
            attend.__name__,
            lambda *args, attend=attend: used.append(attend) or attend(*args),
        )
    unet, inputs, outputs = copy.deepcopy(components["unet"]), unet_inputs(1, 1), []
    for enabled, attend in ((True, folded_attention), (False, plain_attention), (True, folded_attention)):
        used.clear()
        unet.set_folding(enabled)
        outputs.append(unet(**inputs).sample)
        assert set(used) == {attend}
    assert torch.equal(outputs[0], outputs[2])
    assert relative_error(outputs[1], outputs[0]) < 1e-4


def unet_inputs(samples, conditional, frames=3, size=8):
    return {
        "sample": random(samples, frames, 8, size, size),
        "timestep": torch.tensor(0.7),
        "encoder_hidden_states": random(conditional, 5, 64, seed=1),
        "added_time_ids": torch.tensor([[6, 127, 0.02]]).repeat(samples, 1),
        "pose_latents": random(conditional, frames, 32, size, size, seed=2) if conditional else None,
    }


@pytest.mark.parametrize("conditional", [0, 1, 2])
@torch.no_grad()
def test_unet_equals_the_naive_one(components, conditional):
    """Also in one batch with an unconditional sample: its branch is that of zero tokens and no pose."""
    unet, naive = components["unet"], naive_unet(components["unet"])
    inputs = unet_inputs(conditional + 1, conditional)
    found = unet(**inputs).sample
    for i, sample in enumerate(inputs["sample"]):
        tokens = inputs["encoder_hidden_states"][i - 1 : i] if i else torch.zeros(1, 5, 64)
        poses = inputs["pose_latents"][i - 1 : i] if i else None
        expected = naive(sample[None], 0.7, tokens, inputs["added_time_ids"][:1], poses).sample
        assert relative_error(found[i : i + 1], expected) < 1e-4


@torch.no_grad()
def test_pose_of_the_wrong_branch_differs(components):
    inputs = unet_inputs(1, 1)
    expected = components["unet"](**inputs).sample
    assert relative_error(components["unet"](**{**inputs, "pose_latents": None}).sample, expected) > 1e-3


def test_offloaded_layers_give_the_same(components):
    """Sequential offloading keeps weights away until a layer's own forward: nothing may read past it."""
    inputs = unet_inputs(2, 1)
    unet = copy.deepcopy(components["unet"])
    with torch.no_grad():
        expected = unet(**inputs).sample
        unet.set_folding(False)
        accelerate.cpu_offload(unet, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in unet.parameters())
        assert relative_error(unet(**inputs).sample, expected) < 1e-4


def test_gradients_reach_every_adapter_weight(components):
    """Training uses the same classes, with gradient checkpointing on and off."""
    unet = copy.deepcopy(components["unet"]).train().requires_grad_(True)
    inputs = unet_inputs(1, 1)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.zero_grad()
        unet(**inputs).sample.square().mean().backward()
        gradients.append(
            {name: parameter.grad.clone() for name, parameter in unet.named_parameters() if ".id_to_" in name}
        )
    assert gradients[0]
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_copy_of_the_unet_shares_nothing_with_it(components):
    """An EMA copy or a deployed copy must not be steered by the original's batch layout."""
    unet = copy.deepcopy(components["unet"])
    layouts = {id(p.layout) for p in unet.attn_processors.values() if hasattr(p, "layout")}
    assert layouts == {id(unet.layout)}
    assert unet.layout is not components["unet"].layout
    names = itertools.chain(unet.state_dict(), components["unet"].state_dict())
    assert len(set(names)) == len(unet.state_dict())
