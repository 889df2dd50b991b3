"""LPIPS, the learned perceptual distance of two images (Zhang et al., arXiv 1801.03924)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from animation.errors import CheckpointError
from animation.weights.state_dicts import load_self_described, read_state_dict, recognise

# torchvision's backbones up to the last feature that is compared, which is taken after each group: the kernel of the
# pooling at stride 2 before the group (0: none), how many convolutions, their channels, kernel, stride and padding.
ALEXNET = (0, 1, 64, 11, 4, 2), (3, 1, 192, 5, 1, 2), (3, 1, 384, 3, 1, 1), (0, 1, 256, 3, 1, 1), (0, 1, 256, 3, 1, 1)
VGG16 = (0, 2, 64, 3, 1, 1), (2, 2, 128, 3, 1, 1), (2, 3, 256, 3, 1, 1), (2, 3, 512, 3, 1, 1), (2, 3, 512, 3, 1, 1)


class LPIPS(nn.Module):
    """Squared differences of unit-length features, weighted by channel, averaged over space, summed over layers.

    Tensors are named as in torchvision's backbones (`features.0.weight` …) and in the released heads
    (`lin0.model.1.weight` …). `net` is `alex` or `vgg`.
    """

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.taps: list[int] = []
        layers: list[nn.Module] = []
        channels = 3
        for i, (pool, depth, width, kernel, stride, padding) in enumerate(ALEXNET if net == "alex" else VGG16):
            if pool:
                layers.append(nn.MaxPool2d(pool, 2))
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
            head = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": head}))
        self.features = nn.Sequential(*layers)

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given the shape of each tensor (KeyError: not a backbone's)."""
        return {"net": {11: "alex", 3: "vgg"}[shapes["features.0.weight"][-1]]}  # by the kernel's size

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Distances of pairs of (B, 3, H, W), RGB in −1..1, 32 pixels or more each way: (B,), 0 for equal images."""
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


def load_lpips(backbone_path: str | Path, heads_folder: str | Path) -> LPIPS:
    """Load LPIPS from torchvision's AlexNet or VGG-16 classifier, and the released `alex.pth` or `vgg.pth` of a folder.

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
    return load_self_described(LPIPS, backbone_path, state=features)
