"""Cross-attention of StableAnimator: the distribution-aware ID-Adapter and its temporal counterpart.

Both are plugged into diffusers' `Attention` with `set_attn_processor`. Its encoder states are one image token
followed by the face (identity) tokens. Two facts make them cheaper than general attention, exactly:

* softmax over one key is 1, so attending to the image token returns its value, whatever the query;
* the key and value projections have no bias, so a sample whose tokens are all zero gets the bias of `to_out`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn

STD_EPSILON = 1e-5


@dataclass
class BatchLayout:
    """How the rows of a hidden state divide into samples (videos). Shared by a UNet's processors, set on each call.

    Attributes:
        samples: number of samples in the batch; 0 where every row is a sample of its own.
        unconditional: how many of them, from the first, see no tokens at all.
    """

    samples: int = 0
    unconditional: int = 0

    def rows_per_sample(self, rows: int) -> int:
        """The number of consecutive rows that one sample owns, out of `rows`."""
        return rows // self.samples if self.samples else 1


def align_distribution(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Move `features` to the mean and standard deviation of `target` (StableAnimator, section 3.3).

    Args:
        features: (rows, S, C), the output of attention to the face tokens.
        target: (rows, S, C), the output of attention to the image token.

    Returns:
        (rows, S, C). Mean and unbiased standard deviation are taken per row over tokens and channels together.
    """
    dims = (1, 2)
    scale = target.std(dims, keepdim=True) / (features.std(dims, keepdim=True) + STD_EPSILON)
    return (features - features.mean(dims, keepdim=True)) * scale + target.mean(dims, keepdim=True)


class ImageTokenAttnProcessor:
    """Temporal cross-attention: it sees the image token alone, never the face tokens."""

    def __init__(self, layout: BatchLayout | None = None):
        self.layout = layout or BatchLayout()

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to the image token.

        Args:
            hidden_states: (B·h·w, F, C).
            encoder_hidden_states: (B·h·w, T, D), equal over the h·w rows of a sample; the image token comes first.
            attention_mask: must be None.

        Returns:
            (B·h·w, 1, C), or (1, 1, C) for one sample: it is the same for all frames and broadcasts over them.
        """
        rows = self.layout.rows_per_sample(hidden_states.shape[0])
        token = encoder_hidden_states[::rows, 0]  # (B, D)
        output = attn.to_out[0](attn.to_v(token))[:, None]
        return output if len(token) == 1 else output.repeat_interleave(rows, dim=0)


class IDAdapterAttnProcessor(nn.Module):
    """Spatial cross-attention with a distribution-aware ID-Adapter (StableAnimator, section 3.3).

    With z = Attention(q, K_image, V_image) and y = Attention(q, K_id, V_id), the output is
    `to_out(z + align_distribution(y, z))`. It owns `id_to_k` and `id_to_v`, (C, D) each.
    """

    def __init__(self, hidden_size: int, cross_attention_dim: int, layout: BatchLayout | None = None):
        super().__init__()
        self.id_to_k = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.id_to_v = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.layout = layout or BatchLayout()
        self.folding = True

    def forward(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to the image token and to the face tokens.

        Args:
            hidden_states: (B·F, S, C).
            encoder_hidden_states: (B·F, 1 + n, D), equal over the F frames of a sample; n may be 0.
            attention_mask: must be None.

        Returns:
            (B·F, S, C), or (B·F, 1, C) where no sample has face tokens: it broadcasts over the S pixels.
        """
        frames = self.layout.rows_per_sample(hidden_states.shape[0])
        first = self.layout.unconditional * frames  # rows before it belong to unconditional samples
        tokens = encoder_hidden_states[first::frames]  # (N, 1 + n, D), one row per conditional sample
        id_tokens = tokens[:, 1:].contiguous()  # a strided batch would make the projections a batched product
        if id_tokens.numel() == 0:
            return attn.to_out[0](attn.to_v(encoder_hidden_states[:, 0]))[:, None]

        image_value = attn.to_v(tokens[:, 0])[:, None]  # (N, 1, C), the attention output z at every pixel
        id_key, id_value = self.id_to_k(id_tokens), self.id_to_v(id_tokens)  # (N, n, C)
        attend = folded_attention if self.folding and folding_pays(attn, id_tokens.shape[1]) else plain_attention
        output = attend(attn, hidden_states[first:], image_value, id_key, id_value)
        if first:
            bias = attn.to_out[0](torch.zeros_like(output[:1, :1]))  # what zero tokens leave
            output = torch.cat([bias.expand(first, output.shape[1], -1), output])
        return output


def folding_pays(attn: Attention, id_tokens: int) -> bool:
    """Whether to project onto `id_tokens` folded keys per head rather than onto whole heads.

    It is less work for a few tokens. It reads weights past their modules, so it is for inference with plain layers:
    not while training, on quantised or adapted layers, or where offloading keeps the weights elsewhere.
    """
    layers = attn.to_q, attn.to_out[0]
    plain = all(type(layer) is nn.Linear and not hasattr(layer, "_hf_hook") for layer in layers)
    return plain and not torch.is_grad_enabled() and 2 * id_tokens <= attn.to_q.out_features // attn.heads


def plain_attention(
    attn: Attention,
    hidden_states: torch.Tensor,
    image_value: torch.Tensor,
    id_key: torch.Tensor,
    id_value: torch.Tensor,
) -> torch.Tensor:
    """The ID-Adapter as its equations read: query, attention, alignment, output projection.

    Args:
        hidden_states: (N·F, S, C).
        image_value: (N, 1, C).
        id_key, id_value: (N, n, C).

    Returns:
        (N·F, S, C).
    """
    frames = hidden_states.shape[0] // image_value.shape[0]

    def split_heads(states: torch.Tensor) -> torch.Tensor:
        """(rows, S, C) → (rows, heads, S, d)."""
        return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (rows, heads, S, d)

    query = split_heads(attn.to_q(hidden_states))
    key, value = (split_heads(states.repeat_interleave(frames, dim=0)) for states in (id_key, id_value))
    id_features = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
    image_features = image_value.repeat_interleave(frames, dim=0).expand_as(id_features)
    return attn.to_out[0](image_features + align_distribution(id_features, image_features))


def folded_attention(
    attn: Attention,
    hidden_states: torch.Tensor,
    image_value: torch.Tensor,
    id_key: torch.Tensor,
    id_value: torch.Tensor,
) -> torch.Tensor:
    """`plain_attention` with the few keys and values folded into the query and output projections.

    n keys make each head's logits a projection of the hidden state onto n directions (`to_q` times the keys), and
    its share of the output a mix of n directions (the values times `to_out`); so C×C products become C×(heads·n).
    Mean and standard deviation of y follow from the attention probabilities and the values' inner products.

    Args and returns as `plain_attention`.
    """
    samples, n, channels = id_key.shape
    frames, pixels = hidden_states.shape[0] // samples, hidden_states.shape[1]
    heads, elements = attn.heads, pixels * channels

    key = id_key.unflatten(-1, (heads, -1)) * attn.scale  # (N, n, heads, d)
    query_weight = attn.to_q.weight.unflatten(0, (heads, -1))
    query_fold = torch.einsum("bnhd,hdc->bhnc", key, query_weight).flatten(1, 2)  # (N, heads·n, C)
    logits = hidden_states.reshape(samples, frames * pixels, -1) @ query_fold.mT
    probs = logits.unflatten(-1, (heads, n)).softmax(-1).flatten(-2)  # (N, F·S, heads·n)

    # A head's probabilities sum to 1: subtracting one number from all values shifts y, which alignment undoes.
    value = (id_value - id_value.mean((1, 2), keepdim=True)).unflatten(-1, (heads, -1))  # (N, n, heads, d)
    gram = torch.einsum("bnhd,bmhd->bhnm", value, value)
    gram = torch.einsum("bhnm,hk->bhnkm", gram, torch.eye(heads, dtype=gram.dtype, device=gram.device))
    y_square = (probs @ gram.flatten(3).flatten(1, 2)) * probs  # sums to |y|² over pixels and directions
    y_square_sum = y_square.unflatten(1, (frames, pixels)).sum((2, 3), dtype=torch.float32)  # (N, F)
    probs = probs.unflatten(1, (frames, pixels))
    direction_sum = value.sum(-1, dtype=torch.float32).mT.flatten(1)  # (N, heads·n)
    y_sum = (probs.sum(2, dtype=torch.float32) @ direction_sum[..., None]).squeeze(-1)  # (N, F)
    y_mean = y_sum / elements
    y_std = ((y_square_sum - y_sum * y_mean) / (elements - 1)).clamp(min=0).sqrt()

    z = image_value.float()
    z_mean = z.mean(-1)  # (N, 1)
    z_std = ((z - z_mean[..., None]).square().sum(-1) * (pixels / (elements - 1))).sqrt()
    scale = z_std / (y_std + STD_EPSILON)  # (N, F)

    output_proj = attn.to_out[0]
    output_fold = torch.einsum("bnhd,chd->bhnc", value, output_proj.weight.unflatten(-1, (heads, -1)))
    constant = output_proj((z + (z_mean - y_mean * scale)[..., None]).to(hidden_states.dtype))  # (N, F, C)
    probs = (probs * scale[..., None, None].to(probs.dtype)).flatten(1, 2)
    output = (probs @ output_fold.flatten(1, 2)).unflatten(1, (frames, pixels)) + constant[:, :, None]
    return output.flatten(0, 1)
