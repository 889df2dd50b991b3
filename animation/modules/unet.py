"""SVD's UNet, guided by pose latents and by an ID-Adapter."""

import functools
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, UNetSpatioTemporalConditionModel  # noqa: F401  pipelines look for ModelMixin here
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput
from einops import rearrange

from animation.modules.attention_processor import BatchLayout, IDAdapterAttnProcessor, ImageTokenAttnProcessor
from animation.modules.blocks import economise


class PoseGuidedUNet(UNetSpatioTemporalConditionModel):
    """`UNetSpatioTemporalConditionModel` with pose latents added after `conv_in` and the ID-Adapter in its layers.

    It takes the arguments of SVD's own `unet/config.json`; its tensor names are those of the released `unet.pth`.

    Attributes:
        channels_last: whether features lie so in memory, which takes fewer copies; None: on a CPU.
    """

    _repeated_blocks: ClassVar = ["BasicTransformerBlock", "TemporalBlock", "SpatioTemporalResBlock"]  # compiled alike

    @functools.wraps(UNetSpatioTemporalConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        economise(self)
        self.layout = BatchLayout()
        self.channels_last: bool | None = None
        self.set_attn_processor({name: self._processor(name) for name in self.attn_processors})

    def _processor(self, name: str) -> AttnProcessor2_0 | ImageTokenAttnProcessor | IDAdapterAttnProcessor:
        attn = self.get_submodule(name.removesuffix(".processor"))
        if not attn.is_cross_attention:
            return AttnProcessor2_0()
        if ".temporal_transformer_blocks." in name:
            return ImageTokenAttnProcessor(self.layout)
        hidden_size, cross_attention_dim = attn.to_k.weight.shape
        return IDAdapterAttnProcessor(hidden_size, cross_attention_dim, self.layout)

    def set_folding(self, enabled: bool) -> None:
        """Let the ID-Adapter fold its keys and values into the weights of the layers around it, or not.

        It is on from the start. Turn it off where a layer's weights are elsewhere until the layer runs.
        """
        for processor in self.attn_processors.values():
            if isinstance(processor, IDAdapterAttnProcessor):
                processor.folding = enabled

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        added_time_ids: torch.Tensor,
        pose_latents: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNetSpatioTemporalConditionOutput | tuple[torch.Tensor]:
        """Predict v for a batch of videos, of which the first B − N may be unconditional: (B, F, 4, h, w).

        Args:
            sample: (B, F, 8, h, w), noisy latents and image latents.
            timestep: 0.25·ln σ, a number or a tensor of one or of B elements.
            encoder_hidden_states: (N, 1 + n, D), the image token and n face tokens of the last N samples. The first
                B − N see no tokens, exactly as if all of theirs were zero, and no work is done for them.
            added_time_ids: (B, 3), [fps − 1, motion bucket, noise augmentation].
            pose_latents: (N, F, C, h, w), PoseNet's output for the last N samples, or None.
        """
        unconditional = len(sample) - len(encoder_hidden_states)
        self.layout.samples, self.layout.unconditional = len(sample), unconditional
        if sample.device.type == "cpu" if self.channels_last is None else self.channels_last:  # features follow it
            sample = sample.movedim(2, -1).contiguous().movedim(-1, 2)
        encoder_hidden_states = F.pad(encoder_hidden_states, (0, 0, 0, 0, unconditional, 0))

        def add_pose(_conv_in, _inputs, features: torch.Tensor) -> torch.Tensor | None:  # features: (B·F, C, h, w)
            if pose_latents is None:
                return None
            pose = rearrange(pose_latents, "n f c h w -> (n f) c h w").to(features.dtype)
            return features + F.pad(pose, (0, 0, 0, 0, 0, 0, len(features) - len(pose), 0))

        with self.conv_in.register_forward_hook(add_pose):
            return super().forward(sample, timestep, encoder_hidden_states, added_time_ids, return_dict)
