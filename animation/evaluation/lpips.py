"""LPIPS, the learned perceptual distance of two images (Zhang et al., arXiv 1801.03924)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from animation.errors import CheckpointError
from animation.weights.state_dicts import load_self_described, read_state_dict, recognise

# Convolutions of torchvision's backbones up to the last feature that is compared: (channels, kernel, stride, padding);
# "max" is a pooling of the given kernel at stride 2; a feature is taken after the ReLU of each last one of a group.
ALEXNET = ([(64, 11, 4, 2)], ["max3", (192, 5, 1, 2)], ["max3", (384, 3, 1, 1)], [(256, 3, 1, 1)], [(256, 3, 1, 1)])
VGG16 = tuple(
    ["max2"] * (i > 0) + [(channels, 3, 1, 1)] * depth
    for i, (channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
)
BACKBONES: dict[str, Any] = {"alex": ALEXNET, "vgg": VGG16}


class LPIPS(nn.Module):
    """Squared differences of unit-length features, weighted by channel, averaged over space, summed over layers.

    Tensors are named as in torchvision's backbones (`features.0.weight` …) and in the released heads
    (`lin0.model.1.weight` …).

    Args:
        net: `alex` or `vgg`.
    """

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.taps: list[int] = []
        layers: list[nn.Module] = []
        channels = 3
        for i, group in enumerate(BACKBONES[net]):
            for layer in group:
                if isinstance(layer, str):
                    layers.append(nn.MaxPool2d(int(layer[-1]), 2))
                else:
                    layers += [nn.Conv2d(channels, *layer), nn.ReLU()]
                    channels = layer[0]
            self.taps.append(len(layers) - 1)
            head = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": head}))
        self.features = nn.Sequential(*layers)

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given the shape of each tensor (KeyError: not a backbone's)."""
        kernel = shapes["features.0.weight"][-1]  # 11×11 or 3×3
        return {"net": {11: "alex", 3: "vgg"}[kernel]}

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Distances of pairs.

        Args:
            images, others: (B, 3, H, W), RGB in −1..1; 32 pixels or more each way.

        Returns:
            (B,), 0 for equal images.
        """
        shift = images.new_tensor([-0.030, -0.088, -0.188])[:, None, None]  # ImageNet's mean and deviation,
        scale = images.new_tensor([0.458, 0.448, 0.450])[:, None, None]  # in −1..1
        hidden = (torch.cat([images, others]) - shift) / scale  # (2B, 3, H, W)
        distance = images.new_zeros(len(images))
        for i, layer in enumerate(self.features):
            hidden = layer(hidden)
            if i in self.taps:
                unit = hidden / (hidden.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
                difference = (unit[: len(images)] - unit[len(images) :]).square()
                head = getattr(self, f"lin{self.taps.index(i)}")["model"]
                distance = distance + head(difference).mean(dim=(1, 2, 3))
        return distance


def load_lpips(backbone_path: str | Path, heads_folder: str | Path, dtype: torch.dtype = torch.float32) -> LPIPS:
    """Load LPIPS from torchvision's AlexNet or VGG-16 file and a folder of the released heads.

    Args:
        backbone_path: a classifier of ImageNet; its layers after the features are left out.
        heads_folder: holds `alex.pth` and `vgg.pth`.

    Raises:
        CheckpointError: a file is missing, damaged or of another network.
    """
    state = read_state_dict(backbone_path)
    features = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    try:
        net = LPIPS.config_from_shapes({name: tensor.shape for name, tensor in features.items()})["net"]
    except KeyError:
        raise CheckpointError(f"{backbone_path}: neither AlexNet nor VGG-16; {recognise(set(state))}") from None
    features.update(read_state_dict(Path(heads_folder) / f"{net}.pth"))
    return load_self_described(LPIPS, backbone_path, dtype, features)
