"""The method written without any of its economies: the oracle of tests and the other side of benchmarks.

Every cross-attention runs on all rows, temporal layers project the image token's broadcast over all pixels, and each
guidance branch is a call of its own with all of its tokens. Queries, keys and values are (B·heads, S, d), or where
`fused` is asked for (B, heads, S, d), which torch's fused kernels want.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import nn

from animation.modules.attention_processor import IDAdapterAttnProcessor
from animation.modules.blocks import ECONOMIES, economise
from animation.modules.unet import PoseGuidedUNet


def attention(
    attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, fused: bool = False
) -> torch.Tensor:
    """Attention over (rows, S, C) with the heads moved into the batch, or beside it."""
    if fused:
        query, key, value = (
            rearrange(x, "b s (heads d) -> b heads s d", heads=attn.heads) for x in (query, key, value)
        )
        return rearrange(F.scaled_dot_product_attention(query, key, value), "b heads s d -> b s (heads d)")
    query, key, value = (attn.head_to_batch_dim(states).contiguous() for states in (query, key, value))
    return attn.batch_to_head_dim(F.scaled_dot_product_attention(query, key, value))


class NaiveAttention:
    """Self-attention, or cross-attention to the first token of each row."""

    def __init__(self, fused: bool = False):
        self.fused = fused

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        """(rows, S, C) and, for cross-attention, (rows, T, D) → (rows, S, C)."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states[:, :1]
        projected = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        return attn.to_out[0](attention(attn, *projected, self.fused))


class NaiveIDAdapter(nn.Module):
    """The distribution-aware ID-Adapter, each equation a line; shares the weights of the given processor."""

    def __init__(self, processor: IDAdapterAttnProcessor, fused: bool = False):
        super().__init__()
        self.fused = fused
        self.id_to_k, self.id_to_v = processor.id_to_k, processor.id_to_v

    def forward(self, attn, hidden_states, encoder_hidden_states, attention_mask=None):
        """(B·F, S, C) and (B·F, 1 + n, D) → (B·F, S, C)."""
        image_token, id_tokens = encoder_hidden_states[:, :1], encoder_hidden_states[:, 1:]
        query = attn.to_q(hidden_states)
        z = attention(attn, query, attn.to_k(image_token), attn.to_v(image_token), self.fused)
        y = attention(attn, query, self.id_to_k(id_tokens), self.id_to_v(id_tokens), self.fused)
        mean, std = (lambda x: x.mean((1, 2), keepdim=True)), (lambda x: x.std((1, 2), keepdim=True))
        y = (y - mean(y)) * (std(z) / (std(y) + 1e-5)) + mean(z)
        return attn.to_out[0](z + y)


def naive_unet(unet: PoseGuidedUNet, fused: bool = False) -> PoseGuidedUNet:
    """`unet`, its weights shared, with attention that has no economies but, if asked for, torch's fused kernels."""
    unet = copy.deepcopy(unet, {id(parameter): parameter for parameter in unet.parameters()})
    economise(unet, {ours: plain for plain, ours in ECONOMIES.items()})
    processors: dict[str, Any] = {}
    for name, processor in unet.attn_processors.items():
        adapter = isinstance(processor, IDAdapterAttnProcessor)
        processors[name] = NaiveIDAdapter(processor, fused) if adapter else NaiveAttention(fused)
    unet.set_attn_processor(processors)
    return unet


def predict_video(unet, pose_net, latents, image_latents, timestep, tokens, time_ids, poses, windows):
    """Both guidance branches of a video, a call each, with the poses encoded anew: weighted means over the windows.

    Args:
        latents: (1, F, 4, h, w).
        image_latents: (1, 4, h, w).
        poses: (F, 3, H, W) in −1..1.
        windows: frame numbers of each window, which weighs its frames as a triangle.

    Returns:
        The unconditional and the conditional prediction, (F, 4, h, w) each.
    """
    sums = [torch.zeros_like(latents[0]) for _ in range(2)]
    weights = latents.new_zeros(latents.shape[1], 1, 1, 1)
    for window in windows:
        image = image_latents[:, None].expand(-1, len(window), -1, -1, -1)
        without = torch.cat([latents[:, window], torch.zeros_like(image)], dim=2)
        with_image = torch.cat([latents[:, window], image], dim=2)
        branches = (
            unet(without, timestep, torch.zeros_like(tokens), time_ids).sample,
            unet(with_image, timestep, tokens, time_ids, pose_net(poses[window])[None]).sample,
        )
        for k, frame in enumerate(window):
            u = (2 * k + 1) / len(window)
            weight = min(u, 2 - u)
            weights[frame] += weight
            for total, branch in zip(sums, branches, strict=True):
                total[frame] += weight * branch[0, k]
    return [total / weights for total in sums]
