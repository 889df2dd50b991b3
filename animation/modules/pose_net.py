"""PoseNet: skeleton images to features that are added to the UNet's first activations."""

from collections.abc import Mapping, Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

KERNEL_SIZES = (3, 4, 3, 4, 3, 4, 3, 3)  # 4 halves the resolution: 8 times in all, as the VAE does


class PoseNet(ModelMixin, ConfigMixin):
    """Eight convolutions with SiLU, a 1×1 projection to the UNet's first width, one learned scale.

    Args:
        out_channels: width of the UNet's first block.
        hidden_channels: output widths of the eight convolutions.
    """

    @register_to_config
    def __init__(self, out_channels: int = 320, hidden_channels: Sequence[int] = (3, 16, 16, 32, 32, 64, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for kernel_size, channels in zip(KERNEL_SIZES, hidden_channels, strict=True):
            layers += [nn.Conv2d(in_channels, channels, kernel_size, stride=kernel_size - 2, padding=1), nn.SiLU()]
            in_channels = channels
        self.conv_layers = nn.Sequential(*layers)
        for parameter in self.conv_layers.parameters():
            if parameter.ndim > 1:  # without norms, eight narrow convolutions must keep the signal's size themselves
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.final_proj = nn.Conv2d(in_channels, out_channels, 1)
        for parameter in self.final_proj.parameters():  # training starts from the unguided UNet
            nn.init.zeros_(parameter)
        self.scale = nn.Parameter(torch.full((1,), 2.0))

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given the shape of each tensor (KeyError: not a PoseNet's)."""
        return {
            "out_channels": shapes["final_proj.weight"][0],
            "hidden_channels": [shapes[f"conv_layers.{2 * i}.weight"][0] for i in range(len(KERNEL_SIZES))],
        }

    def forward(self, poses: torch.Tensor) -> torch.Tensor:
        """Encode skeletons: (F, 3, H, W), RGB in −1..1, H and W multiples of 8 → (F, out_channels, H/8, W/8)."""
        return self.final_proj(self.conv_layers(poses)) * self.scale
