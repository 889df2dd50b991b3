"""ArcFace's iResNet as torch: the face recogniser of insightface's `glintr100`, differentiable."""

from collections.abc import Mapping, Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

FACE_SIZE = 112  # pixels, height and width of an aligned face


class IResNetBlock(nn.Module):
    """Pre-normalised residual block; the shortcut is projected where its shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) → (B, channels, h/stride, w/stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        return self.bn3(self.conv2(hidden)) + shortcut


class ArcFace(ModelMixin, ConfigMixin):
    """iResNet-100 (ArcFace, arXiv 1801.07698), with the tensor names of the released `glintr100_torch.pth`.

    Args:
        widths: channels of the stem and of the four stages (each stage halves the resolution).
        depths: blocks of the four stages.
        embedding_dim: length of the embedding.
    """

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        depths: Sequence[int] = (3, 13, 30, 3),
        embedding_dim: int = 512,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        for stage, depth in enumerate(depths, start=1):
            blocks = [IResNetBlock(widths[stage - 1], widths[stage], stride=2)]
            blocks += [IResNetBlock(widths[stage], widths[stage], stride=1) for _ in range(depth - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1] * (FACE_SIZE // 16) ** 2, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given the shape of each tensor (KeyError: not an iResNet's)."""
        stages = [{name.split(".")[1] for name in shapes if name.startswith(f"layer{i}.")} for i in range(1, 5)]
        return {
            "widths": [shapes["conv1.weight"][0], *(shapes[f"layer{i}.0.conv1.weight"][0] for i in range(1, 5))],
            "depths": [len(blocks) for blocks in stages],
            "embedding_dim": shapes["fc.weight"][0],
        }

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Embed aligned faces: (B, 3, 112, 112), RGB in −1..1 → (B, embedding_dim), not normalised."""
        features = self.prelu(self.bn1(self.conv1(faces)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return self.features(self.fc(self.bn2(features).flatten(1)))
