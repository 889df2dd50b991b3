"""I3D, the inflated Inception-v1 (Carreira and Zisserman, arXiv 1705.07750): the features of the video distance FVD."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from animation.weights.state_dicts import load_self_described

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
    """I3D for RGB, with the tensor names that its PyTorch ports share.

    Args:
        stem: channels of the three convolutions before the first Inception block.
        mixed: six channel counts for each of the nine blocks, in order.
        num_classes: length of the feature, 400 for Kinetics.
    """

    def __init__(
        self,
        stem: Sequence[int] = (64, 64, 192),
        mixed: Sequence[Sequence[int]] = tuple(INCEPTION_WIDTHS.values()),
        num_classes: int = 400,
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
        """Features of clips, (B, 3, T, 224, 224), RGB in −1..1: logits averaged over time, (B, num_classes).

        T is at least 9, so that two of its eighths are left.
        """
        features = clips
        for module in self.children():
            features = module(features)
        return features.mean(dim=(2, 3, 4))


def load_i3d(path: str | Path) -> I3D:
    """Load a state dict of I3D's PyTorch ports. Raises CheckpointError."""
    return load_self_described(I3D, path)
