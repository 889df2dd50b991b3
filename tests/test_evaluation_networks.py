"""LPIPS and I3D: their tensors, their arithmetic against independent code, and the files that they refuse."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from animation.errors import CheckpointError
from animation.evaluation.networks import BRANCHES, I3D, INCEPTION_WIDTHS, LPIPS, load_i3d, load_lpips, pad_same
from tests.synthetic import randomise

HEADS = Path(importlib.util.find_spec("torchmetrics").origin).parent / "functional" / "image" / "lpips_models"
SMALL_I3D = {"stem": (4, 4, 6), "mixed": [(4, 3, 5, 2, 3, 4)] * 9, "num_classes": 10}


def alexnet():
    """The features of AlexNet as torchvision names them, and the start of its classifier."""
    model = nn.Module()
    model.features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(4, 4))
    return randomise(model, 3)


def vgg16():
    """The same for VGG-16."""
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    model = nn.Module()
    model.features = nn.Sequential(*layers)
    return randomise(model, 4)


@pytest.mark.parametrize(("net", "backbone"), [("alex", alexnet), ("vgg", vgg16)])
def test_lpips_against_torchmetrics(monkeypatch, tmp_path, net, backbone):
    """torchmetrics' network, handed the same backbone in torchvision's place."""
    from torchmetrics.functional.image import lpips as theirs

    model = backbone()
    torch.save(model.state_dict(), tmp_path / "backbone.pth")
    ours = load_lpips(tmp_path / "backbone.pth", HEADS)
    assert ours.net == net
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: model.features)
    expected = theirs._LPIPS(net=net)
    generator = torch.Generator().manual_seed(0)
    images, others = (torch.rand(2, 3, 64, 48, generator=generator) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        found, reference = ours(images, others), expected(images, others).flatten()
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-7)
        assert ours(images, images).tolist() == [0, 0]
        assert not torch.allclose(ours(images.flip(1), others.flip(1)), reference, rtol=1e-3)  # control: BGR


def test_lpips_refuses_other_networks(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"Mixed_3b.b0.conv3d.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="neither AlexNet nor VGG-16; this file holds an I3D network"):
        load_lpips(path, HEADS)
    state = alexnet().state_dict()
    del state["features.3.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"1 tensors missing \(features\.3\.weight\)"):
        load_lpips(path, HEADS)


def test_i3d_has_the_ports_tensors():
    """Names and sizes of Inception-v1 with batch norms: 12.7 million parameters with 400 classes."""
    with torch.device("meta"):
        model = I3D()
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert state["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert state["Mixed_4f.b1b.conv3d.weight"] == (320, 160, 3, 3, 3)
    assert state["Mixed_5c.b3b.bn.running_var"] == (128,)
    assert state["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
    assert state["logits.conv3d.bias"] == (400,)
    units = 3 + 9 * len(BRANCHES)
    assert len(state) == units * 6 + 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_697_264
    assert I3D.config_from_shapes(state) == {
        "stem": [64, 64, 192],
        "mixed": [list(widths) for widths in INCEPTION_WIDTHS.values()],
        "num_classes": 400,
    }


def smooth_clips(frames):
    """Two clips, (2, 3, T, 224, 224)."""
    coarse = torch.rand(2, 3, frames, 7, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return F.interpolate(coarse, (frames, 224, 224), mode="trilinear")


def small_i3d(frames=10):
    """A small I3D whose batch norms keep the differences of clips alive through all layers."""
    model = randomise(I3D(**SMALL_I3D), 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(smooth_clips(frames))
    return model.eval()


def naive_i3d(state, clip):
    """I3D written from the paper's figure, one call a layer, padding counted by hand."""

    def same(x, kernel, stride):
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
            size = x.shape[axis]
            total = max(k - (s if size % s == 0 else size % s), 0)
            shape = list(x.shape)
            for side, amount in ((0, total // 2), (1, total - total // 2)):
                shape[axis] = amount
                zeros = x.new_zeros(shape)
                x = torch.cat([zeros, x] if side == 0 else [x, zeros], dim=axis)
        return x

    def unit(x, name, stride=1):
        kernel = state[f"{name}.conv3d.weight"].shape[2:]
        x = F.conv3d(same(x, kernel, (stride,) * 3), state[f"{name}.conv3d.weight"], stride=stride)
        m, v, w, b = (
            state[f"{name}.bn.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - m) / (v + 0.001).sqrt() * w + b).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    def mixed(x, name):
        name = f"Mixed_{name}"
        return torch.cat(
            [
                unit(x, f"{name}.b0"),
                unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
                unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
            ],
            dim=1,
        )

    x = unit(clip, "Conv3d_1a_7x7", 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = mixed(mixed(x, "3b"), "3c")
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("4b", "4c", "4d", "4e", "4f"):
        x = mixed(x, name)
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = mixed(mixed(x, "5b"), "5c")  # (1, C, 2, 7, 7)
    weight, bias = state["logits.conv3d.weight"][:, :, 0, 0, 0], state["logits.conv3d.bias"]
    return x.mean(dim=(2, 3, 4)) @ weight.T + bias


@pytest.mark.parametrize("frames", [9, 16])
def test_i3d_against_a_naive_one(tmp_path, frames):
    model = small_i3d(frames)
    torch.save(model.state_dict(), tmp_path / "i3d.pt")
    loaded, clip = load_i3d(tmp_path / "i3d.pt"), smooth_clips(frames)[:1]
    with torch.no_grad():
        found, expected = loaded(clip), naive_i3d(model.state_dict(), clip)
        assert found.shape == (1, 10)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        backwards = naive_i3d(model.state_dict(), clip.flip(2))
    assert not torch.allclose(found, backwards, rtol=1e-3, atol=1e-4)  # control: time has a direction


def test_same_padding_for_every_size():
    for size in range(1, 20):
        for kernel in (1, 2, 3, 7):
            for stride in (1, 2):
                padded = pad_same(torch.ones(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1))
                assert (padded.shape[2] - kernel) // stride + 1 == -(-size // stride)
                left = int((padded.flatten() == 0).long().cumprod(0).sum())
                assert left == max(padded.shape[2] - size, 0) // 2


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_i3d_refuses_programs_and_other_networks(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match=r"a TorchScript program, which could run code; .*state_dict\(\)"):
        load_i3d(path)
    torch.save(alexnet().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"not the weights of I3D: .* is missing; this file holds an ImageNet"):
        load_i3d(path)


def test_lpips_layers_end_with_the_last_feature():
    assert [len(LPIPS(net).features) for net in ("alex", "vgg")] == [12, 30]
