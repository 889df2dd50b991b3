"""The networks of metrics: LPIPS, the learned perceptual distance of two images, and I3D, whose features FVD compares.

Zhang et al., arXiv 1801.03924; the inflated Inception-v1 of Carreira and Zisserman, arXiv 1705.07750.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from animation.errors import CheckpointError
from animation.weights.state_dicts import assign_state_dict, load_self_described, read_state_dict, recognise

# torchvision's backbones up to the last feature that is compared, which is taken after each group: the kernel of the
# pooling at stride 2 before the group (0: none), how many convolutions, their channels, kernel, stride and padding.
ALEXNET = (0, 1, 64, 11, 4, 2), (3, 1, 192, 5, 1, 2), (3, 1, 384, 3, 1, 1), (0, 1, 256, 3, 1, 1), (0, 1, 256, 3, 1, 1)
VGG16 = (0, 2, 64, 3, 1, 1), (2, 2, 128, 3, 1, 1), (2, 3, 256, 3, 1, 1), (2, 3, 512, 3, 1, 1), (2, 3, 512, 3, 1, 1)
# Channels of Inception-v1: of the 1×1 branch, of the two 3×3 branches (reduced, then full), of the pooled branch.
INCEPTION_WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


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
    """Load LPIPS from torchvision's AlexNet or VGG-16, and a folder of the released heads. Raises CheckpointError."""
    state = read_state_dict(backbone_path)
    kernel = state["features.0.weight"].shape[-1] if "features.0.weight" in state else None
    if kernel not in (11, 3):
        raise CheckpointError(f"{backbone_path}: neither AlexNet nor VGG-16; {recognise(set(state))}")
    with torch.device("meta"):
        model = LPIPS("alex" if kernel == 11 else "vgg")
    features = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    heads = read_state_dict(Path(heads_folder) / f"{model.net}.pth")
    return assign_state_dict(model, features | heads, backbone_path, torch.float32)


def pad_same(features: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Pad (B, C, T, H, W) with zeros as TensorFlow's SAME: ceil(size / stride) remain, the odd one at the end."""
    padding: list[int] = []
    for size, k, s in zip(features.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad counts from the last axis
    return F.pad(features, padding)


class ConvUnit(nn.Module):
    """Convolution, batch norm and ReLU; time and space are divided by the stride, rounded up."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels, eps=1e-3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        padded = pad_same(features, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class MaxPool(nn.Module):
    """Maximum over a window, zeros around it: after a ReLU nothing is lower. Rounds sizes up too."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(pad_same(features, self.kernel, self.stride), self.kernel, self.stride)


class Inception(nn.Module):
    """Four branches side by side, their channels concatenated: (B, in_channels, T, H, W) → (B, their sum, T, H, W)."""

    def __init__(self, in_channels: int, widths: Sequence[int]):
        super().__init__()
        self.b0 = ConvUnit(in_channels, widths[0], 1)
        self.b1a, self.b1b = ConvUnit(in_channels, widths[1], 1), ConvUnit(widths[1], widths[2], 3)
        self.b2a, self.b2b = ConvUnit(in_channels, widths[3], 1), ConvUnit(widths[3], widths[4], 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, widths[5], 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        deep = [self.b1b(self.b1a(features)), self.b2b(self.b2a(features)), self.b3b(self.b3a(features))]
        return torch.cat([self.b0(features), *deep], dim=1)


class I3D(nn.Module):
    """I3D for RGB, with the tensor names that its PyTorch ports share."""

    def __init__(
        self,
        stem: Sequence[int] = (64, 64, 192),  # channels of the convolutions before the first Inception block
        mixed: Sequence[Sequence[int]] = tuple(INCEPTION_WIDTHS.values()),  # of each block
        num_classes: int = 400,  # of Kinetics: length of the feature
    ):
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(3, stem[0], 7, stride=2)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(stem[0], stem[1], 1)
        self.Conv3d_2c_3x3 = ConvUnit(stem[1], stem[2], 3)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        channels = stem[2]
        for name, widths in zip(INCEPTION_WIDTHS, mixed, strict=True):
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
            self.add_module(name, Inception(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.pool = nn.AvgPool3d((2, 7, 7), stride=1)  # of the last features, (B, C, T/8, 7, 7)
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(channels, num_classes, 1)))

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given the shape of each tensor (KeyError: not an I3D's)."""

        def width(name: str) -> int:
            return shapes[f"{name}.conv3d.weight"][0]

        return {
            "stem": [width(name) for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")],
            "mixed": [[width(f"{name}.{branch}") for branch in BRANCHES] for name in INCEPTION_WIDTHS],
            "num_classes": width("logits"),
        }

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Features of clips, (B, 3, T, 224, 224), RGB in −1..1, T ≥ 9: logits averaged over time, (B, num_classes)."""
        features = clips
        for module in self.children():
            features = module(features)
        return features.mean(dim=(2, 3, 4))


def load_i3d(path: str | Path) -> I3D:
    """Load a state dict of I3D's PyTorch ports. Raises CheckpointError."""
    return load_self_described(I3D, path)
