"""Eight-bit weights: a share of the bytes, nearly the same prediction, and one line where they cannot be."""

import copy
import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from animation.errors import InputError
from animation.pipeline import AnimationPipeline
from animation.planning.planner import _candidates
from animation.planning.rehearsal import Rehearsal
from animation.quantization import check_quantization, quantize, stored_tensors
from animation.settings import Levers
from tests.conftest import relative_error
from tests.test_memory import TOLERANCE, make_components, measure, networks, on_meta, settings_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def predict(unet):
    time_ids = torch.tensor([[6, 127, 0.02]]).expand(2, -1)
    tokens = random(1, 5, 64, seed=1)
    return unet(*(tensor.to(unet.dtype) for tensor in (random(2, 3, 8, 8, 8), torch.tensor(0.4), tokens, time_ids)))[0]


def stored_bytes(network):
    return sum(tensor.nbytes for tensor in stored_tensors(network))


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_take_less_memory_and_predict_nearly_the_same(components, dtype):
    unet = torch.nn.Module.to(copy.deepcopy(components["unet"]), dtype)
    expected = predict(unet)
    linear = sum(layer.weight.nbytes for layer in unet.modules() if isinstance(layer, torch.nn.Linear))
    before = stored_bytes(unet)
    assert before == sum(tensor.nbytes for tensor in (*unet.parameters(), *unet.buffers()))
    quantize(unet, "int8")
    saved = (before - stored_bytes(unet)) / linear
    assert saved == pytest.approx(1 - 1 / dtype.itemsize, abs=0.15)  # scales, and two layers of each cross-attention
    found = predict(unet)
    assert 1e-3 < relative_error(found, expected) < 0.1
    assert torch.equal(predict(unet), found)


@needs_torchao
def test_folding_stays_exact(components):
    unet = copy.deepcopy(components["unet"])
    quantize(unet, "int8")
    adapted = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    assert type(adapted.to_q.weight) is type(adapted.to_out[0].weight) is torch.nn.Parameter
    assert type(adapted.to_v.weight) is not torch.nn.Parameter
    folded = predict(unet)
    unet.set_folding(False)
    assert 0 < relative_error(predict(unet), folded) < 1e-5


@needs_torchao
@pytest.mark.slow
def test_the_model_of_memory_counts_eight_bits():
    """Weights as they are stored, and the layer that is made whole at its turn."""
    settings = settings_of(cfg_batch="2")
    plain, components = networks()[0], make_components()
    quantize(components["unet"], "int8")
    pipeline = AnimationPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    peak = measure(pipeline, settings, 8, ("denoise",))["denoise"]
    rehearsals = [Rehearsal(on_meta(parts), settings, 8, CPU) for parts in (plain, components)]
    before, after = (rehearsal.stages(settings)["denoise"] for rehearsal in rehearsals)
    assert after.peak == pytest.approx(peak, rel=TOLERANCE)
    assert before.peak != pytest.approx(peak, rel=TOLERANCE)
    weights = [rehearsal.bytes(replace(after, peak=0), settings) for rehearsal in rehearsals]
    assert weights[0] - weights[1] == stored_bytes(plain["unet"]) - stored_bytes(components["unet"]) > 0


def test_one_layer_at_a_time_is_not_for_eight_bits():
    with pytest.raises(InputError, match="--quantize int8 with --offload sequential"):
        Levers(quantize="int8", offload="sequential").check()
    for name, there in (("none", True), ("int8", False)):
        asked = SimpleNamespace(settings=settings_of(quantize=name), device=CUDA)
        assert ("sequential" in {tried.offload for tried in _candidates(asked, ())}) is there


def test_where_eight_bits_cannot_be(monkeypatch):
    check_quantization("none", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--quantize int8: torchao is not installed; pip install"):
        check_quantization("int8", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_quantization("int8", CPU)
    with pytest.raises(InputError, match="--quantize fp8: cpu does not compute in fp8"):
        check_quantization("fp8", CPU)
    for capability, refused in (((8, 0), True), ((8, 9), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        if refused:
            with pytest.raises(InputError, match="--quantize fp8: cuda does not"):
                check_quantization("fp8", CUDA)
        else:
            check_quantization("fp8", CUDA)
