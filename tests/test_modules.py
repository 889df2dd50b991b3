"""The networks hold the released names and, at their released sizes, the recorded outputs."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file

from animation.modules.arcface import ArcFace
from animation.modules.face_encoder import FaceEncoder
from animation.modules.pose_net import PoseNet
from animation.modules.unet import PoseGuidedUNet
from tests.conftest import relative_error
from tests.synthetic import randomise

KEYS = Path(__file__).parent / "data" / "released_keys"
MODELS = {"pose_net": PoseNet, "face_encoder": FaceEncoder, "glintr100_torch": ArcFace}


def released_shapes(name):
    return json.loads((KEYS / f"{name}.pth.json").read_text())


def noise(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)


def weight(name, shape):
    a = noise(name, shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        a = 1 + 0.1 * np.abs(a)
    elif len(shape) >= 2:
        a = a / np.sqrt(np.prod(shape[1:]))
    elif "prelu" in name:
        a = 0.25 + 0.05 * a
    elif name.endswith("weight"):
        a = 1 + 0.1 * a
    else:
        a = 2 + 0.1 * a if name == "scale" else 0.1 * a
    return torch.from_numpy(np.asarray(a, dtype=np.float32))


def released_model(name):
    shapes = released_shapes(name)
    with init_empty_weights():
        model = MODELS[name](**MODELS[name].config_from_shapes(shapes))
    model.load_state_dict({key: weight(key, shape) for key, shape in shapes.items()}, assign=True)
    return model.eval()


def shapes_of(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def test_unet_has_the_released_names_and_shapes():
    with init_empty_weights():
        unet = PoseGuidedUNet(block_out_channels=(320, 640, 1280, 1280), num_attention_heads=(5, 10, 20, 20))
    assert shapes_of(unet) == released_shapes("unet")
    assert len(shapes_of(unet)) == 1460


@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_released_names_and_shapes(name):
    shapes = released_shapes(name)
    with init_empty_weights():
        model = MODELS[name](**MODELS[name].config_from_shapes(shapes))
        default = MODELS[name]()
    assert shapes_of(model) == shapes
    assert shapes_of(default) == shapes  # the defaults are the released sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inputs", "output"),
    [
        ("pose_net", {"pose": (2, 3, 64, 128)}, "pose_net_latents"),
        ("face_encoder", {"id": (2, 512), "clip": (2, 1, 1024)}, "face_encoder_tokens"),
        ("glintr100_torch", {"face": (2, 3, 112, 112)}, "iresnet100_embedding"),
    ],
)
@torch.no_grad()
def test_recorded_outputs_at_full_size(name, inputs, output):
    expected = load_file(KEYS / "full_size_outputs.safetensors")[output]
    tensors = [torch.from_numpy(noise(key, shape)) for key, shape in inputs.items()]
    if name != "face_encoder":
        tensors = [tensor.clamp(-1, 1) for tensor in tensors]
    model = released_model(name)
    assert relative_error(model(*tensors), expected) < 1e-4
    assert relative_error(model(*(-tensor for tensor in tensors)), expected) > 1e-2  # a control that must fail


def test_face_encoder_has_no_shortcut_around_the_whole(components):
    """Its last layer is a LayerNorm: with its weight and bias at zero, so are the tokens."""
    face_encoder = randomise(FaceEncoder.from_config(components["face_encoder"].config), 0)
    assert face_encoder(torch.randn(1, 512), torch.randn(1, 1, 64)).any()
    torch.nn.init.zeros_(face_encoder.fusion_model.norm_out.weight)
    torch.nn.init.zeros_(face_encoder.fusion_model.norm_out.bias)
    tokens = face_encoder(torch.randn(1, 512), torch.randn(1, 1, 64))
    assert tokens.shape == (1, 4, 64)
    assert not tokens.any()


def test_training_starts_from_face_tokens_of_zero(components):
    """The last projection starts at zero, so that its LayerNorm leaves the bias, which is zero too."""
    face_encoder = FaceEncoder.from_config(components["face_encoder"].config)
    assert not face_encoder.fusion_model.proj_out.weight.any()
    assert not face_encoder.fusion_model.proj_out.bias.any()
    tokens = face_encoder(torch.randn(2, 512), torch.randn(2, 1, 64))
    assert not tokens.any()
    tokens.square().sum().backward()  # the gradient of zero: no NaN
    (face_encoder(torch.randn(2, 512), torch.randn(2, 1, 64)) * torch.randn(64)).sum().backward()
    gradient = face_encoder.fusion_model.proj_out.weight.grad
    assert gradient.isfinite().all()
    assert gradient.any()  # it leaves zero in the first step
