"""Parts of SVD's UNet as diffusers has them, with less memory traffic: the same equations in fewer passes.

`economise` gives the parts of a network these classes. Tensors keep their names, and numbers differ in last digits.
Hidden states stay as (frames, pixels, channels) in memory from end to end, which convolutions read as channels-last.
"""

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.resnet import AlphaBlender
from diffusers.models.transformers.transformer_temporal import (
    TransformerSpatioTemporalModel,
    TransformerTemporalModelOutput,
)
from einops import rearrange
from torch import Tensor, nn

from animation.modules.attention_processor import ImageTokenAttnProcessor, is_plain


class Gate(GEGLU):
    """The gated half of a feed-forward: each half a product of its own, then multiplied in place."""

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        """(…, C) → (…, inner)."""
        there = self.proj.weight.device == hidden_states.device  # and not offloaded until the layer runs
        if not is_plain(self.proj) or not there or torch.is_grad_enabled():
            return super().forward(hidden_states, *args, **kwargs)
        weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        gate = F.gelu(F.linear(hidden_states, weights[1], biases[1]))
        return gate.mul_(F.linear(hidden_states, weights[0], biases[0]))


class Blend(AlphaBlender):
    """A mean of spatial and temporal features in one pass."""

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Tensor | None = None) -> Tensor:
        """Both and the result have one shape."""
        alpha = self.get_alpha(image_only_indicator, x_spatial.ndim).to(x_spatial.dtype)
        if self.switch_spatial_to_temporal_mix:
            alpha = 1 - alpha
        return torch.lerp(x_temporal, x_spatial, alpha)


class TemporalBlock(TemporalBasicTransformerBlock):
    """A transformer block over frames, of which self-attention alone needs the frames of a pixel together."""

    def forward(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """(B·F, S, C) → (B·F, S, C), for tokens of (B, T, D)."""
        assert encoder_hidden_states is not None
        pixels = hidden_states.shape[1]
        if not isinstance(self.attn2.processor, ImageTokenAttnProcessor):  # which asks for no query
            tokens = encoder_hidden_states.repeat_interleave(pixels, dim=0)
            return super().forward(hidden_states, num_frames, tokens)
        hidden_states = self.ff_in(self.norm_in(hidden_states)) + hidden_states
        rows = rearrange(self.norm1(hidden_states), "(b f) s c -> (b s) f c", f=num_frames).contiguous()  # or it is bmm
        rows = rearrange(self.attn1(rows), "(b s) f c -> b f s c", s=pixels)
        token = self.attn2(encoder_hidden_states[:, :1], encoder_hidden_states=encoder_hidden_states)  # (B, 1, C)
        hidden_states = (hidden_states.unflatten(0, (-1, num_frames)) + rows + token[:, None]).flatten(0, 1)
        return self.ff(self.norm3(hidden_states)) + hidden_states


class Transformer(TransformerSpatioTemporalModel):
    """Spatial and temporal blocks in turn over the pixels of all frames, with no copy where these are channels-last."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        return_dict: bool = True,
    ) -> TransformerTemporalModelOutput | tuple[Tensor]:
        """(B·F, C, h, w) → (B·F, C, h, w), for tokens of (B·F, T, D), equal over the frames of a sample."""
        assert encoder_hidden_states is not None and image_only_indicator is not None
        height, num_frames = hidden_states.shape[-2], image_only_indicator.shape[-1]
        states = self.proj_in(rearrange(self.norm(hidden_states), "n c h w -> n (h w) c"))
        positions = self.time_proj(torch.arange(num_frames, device=states.device)).to(states.dtype)
        positions = self.time_pos_embed(positions).repeat(len(states) // num_frames, 1)[:, None]  # (B·F, 1, C)
        for block, temporal_block in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            states = block(states, encoder_hidden_states=encoder_hidden_states)
            mixed = temporal_block(states + positions, num_frames, encoder_hidden_states[::num_frames])
            states = self.time_mixer(states, mixed, image_only_indicator)
        output = hidden_states + rearrange(self.proj_out(states), "n (h w) c -> n c h w", h=height)
        return TransformerTemporalModelOutput(sample=output) if return_dict else (output,)


ECONOMIES: dict[type, type] = {
    GEGLU: Gate,
    AlphaBlender: Blend,
    TemporalBasicTransformerBlock: TemporalBlock,
    TransformerSpatioTemporalModel: Transformer,
}


def economise(network: nn.Module, classes: dict[type, type] = ECONOMIES) -> None:
    """Give the parts of a network the classes above in place of diffusers' own, or others by their present ones."""
    for part in network.modules():
        part.__class__ = classes.get(type(part), type(part))
