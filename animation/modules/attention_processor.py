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
from einops import rearrange, repeat
from torch import Tensor, nn

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


def align_distribution(features: Tensor, target: Tensor) -> Tensor:
    """Move `features` to the mean and standard deviation of `target` (StableAnimator, section 3.3).

    All are (rows, S, C). Mean and unbiased standard deviation are taken per row over tokens and channels together.
    """
    dims = (1, 2)
    scale = alignment_scale(target.std(dims, keepdim=True), features.std(dims, keepdim=True), features.dtype)
    return (features - features.mean(dims, keepdim=True)) * scale + target.mean(dims, keepdim=True)


def alignment_scale(
    target_std: Tensor, features_std: Tensor, dtype: torch.dtype, epsilon: Tensor | float = STD_EPSILON
) -> Tensor:
    """The quotient of two standard deviations, in `dtype` and its range; computed in float32, which holds the epsilon.

    Where all features are equal it is 1. They become the target's mean whatever it is, but the gradient is a multiple
    of it, and training starts from features of zero.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scale = target_std.to(wide) / (features_std.to(wide) + epsilon)
    return torch.where(features_std > 0, scale, 1).clamp(max=torch.finfo(dtype).max).to(dtype)


class ImageTokenAttnProcessor:
    """Temporal cross-attention: it sees the image token alone, never the face tokens."""

    def __init__(self, layout: BatchLayout | None = None):
        self.layout = layout or BatchLayout()

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        """Attend to the image token, the first of (B·r, T, D), which are equal over the r rows of a sample.

        Returns (B·h·w, 1, C) for hidden states of (B·h·w, F, C), or (1, 1, C) for one sample: it is the same for all
        frames and broadcasts over them.
        """
        token = encoder_hidden_states[:: self.layout.rows_per_sample(len(encoder_hidden_states)), 0]  # (B, D)
        output = attn.to_out[0](attn.to_v(token))[:, None]
        rows = len(hidden_states) // len(token)
        return output if len(token) == 1 else repeat(output, "b 1 c -> (b rows) 1 c", rows=rows)


class IDAdapterAttnProcessor(nn.Module):
    """Spatial cross-attention with a distribution-aware ID-Adapter (StableAnimator, section 3.3).

    With z = Attention(q, K_image, V_image) and y = Attention(q, K_id, V_id), the output is
    `to_out(z + align_distribution(y, z))`. It owns `id_to_k` and `id_to_v`, (C, D) each.

    Attributes:
        folding: whether `folded_attention` may be used, which reads weights past their layers.
    """

    def __init__(self, hidden_size: int, cross_attention_dim: int, layout: BatchLayout | None = None):
        super().__init__()
        self.id_to_k = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.id_to_v = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.layout = layout or BatchLayout()
        self.folding = True

    def forward(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        """Attend from (B·F, S, C) to (B·F, 1 + n, D), equal over the F frames of a sample; n may be 0.

        Returns (B·F, S, C), or (B·F, 1, C) where no sample has face tokens: it broadcasts over the S pixels.
        """
        frames = self.layout.rows_per_sample(hidden_states.shape[0])
        first = self.layout.unconditional * frames  # rows before it belong to unconditional samples
        tokens = encoder_hidden_states[first::frames]  # (N, 1 + n, D), one row per conditional sample
        id_tokens = tokens[:, 1:].contiguous()  # a strided batch would make the projections a batched product
        if id_tokens.numel() == 0:
            return attn.to_out[0](attn.to_v(encoder_hidden_states[:, 0]))[:, None]

        image_value = attn.to_v(tokens[:, 0])[:, None]  # (N, 1, C), the attention output z at every pixel
        id_key, id_value = self.id_to_k(id_tokens), self.id_to_v(id_tokens)  # (N, n, C)
        folds = self.folding and folding_pays(attn, id_tokens.shape[1])
        attend = folded_attention if folds else plain_attention
        output = attend(attn, hidden_states[first:], image_value, id_key, id_value)
        if first:
            bias = attn.to_out[0](torch.zeros_like(output[:1, :1]))  # what zero tokens leave
            output = torch.cat([bias.expand(first, output.shape[1], -1), output])
        return output


def folding_pays(attn: Attention, id_tokens: int) -> bool:
    """Whether to project onto `id_tokens` folded keys per head rather than onto whole heads.

    It is less work for a few tokens. It is for inference with plain layers; training's gradients are those of the plain
    formula.
    """
    plain = is_plain(attn.to_q) and is_plain(attn.to_out[0])
    return plain and not torch.is_grad_enabled() and 2 * id_tokens <= attn.to_q.out_features // attn.heads


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its weights tell; adapted ones do not, and quantised ones have no plain weights."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


def plain_attention(
    attn: Attention, hidden_states: Tensor, image_value: Tensor, id_key: Tensor, id_value: Tensor
) -> Tensor:
    """The ID-Adapter as its equations read: query, attention, alignment, output projection.

    Takes (N·F, S, C), (N, 1, C) and twice (N, n, C); returns (N·F, S, C).
    """
    frames = hidden_states.shape[0] // image_value.shape[0]
    query = rearrange(attn.to_q(hidden_states), "rows s (heads d) -> rows heads s d", heads=attn.heads)
    key, value = (
        repeat(states, "b n (heads d) -> (b frames) heads n d", frames=frames, heads=attn.heads)
        for states in (id_key, id_value)
    )
    attended = F.scaled_dot_product_attention(query, key, value)
    id_features = rearrange(attended, "rows heads s d -> rows s (heads d)")
    image_features = repeat(image_value, "b 1 c -> (b frames) 1 c", frames=frames).expand_as(id_features)
    return attn.to_out[0](image_features + align_distribution(id_features, image_features))


def folded_attention(
    attn: Attention, hidden_states: Tensor, image_value: Tensor, id_key: Tensor, id_value: Tensor
) -> Tensor:
    """`plain_attention` with the few keys and values folded into the query and output projections.

    n keys make each head's logits a projection of the hidden state onto n directions (`to_q` times the keys), and
    its share of the output a mix of n directions (the values times `to_out`); so C×C products become C×(heads·n).
    Mean and standard deviation of y follow from the attention probabilities and the values' inner products.
    """
    samples, n, channels = id_key.shape
    frames, pixels = hidden_states.shape[0] // samples, hidden_states.shape[1]
    heads, elements, dtype = attn.heads, pixels * channels, hidden_states.dtype

    key = id_key.unflatten(-1, (heads, -1)) * attn.scale  # (N, n, heads, d)
    query_weight = attn.to_q.weight.unflatten(0, (heads, -1))
    query_fold = torch.einsum("bnhd,hdc->bhnc", key, query_weight).flatten(1, 2)  # (N, heads·n, C)
    logits = products(hidden_states.reshape(samples, frames * pixels, -1), query_fold.mT)
    probs = logits.unflatten(-1, (heads, n)).softmax(-1).flatten(-2)  # (N, F·S, heads·n)

    # A head's probabilities sum to 1: subtracting one number from all values shifts y, dividing all by another scales
    # it, and alignment undoes both. With a mean square of about 1 the products below fit half precision; dividing by
    # a power of two changes no digit.
    value = id_value.float()
    value = value - value.mean((1, 2), keepdim=True)
    unit = value.square().mean((1, 2), keepdim=True).sqrt().clamp(min=STD_EPSILON).log2().ceil().exp2()  # (N, 1, 1)
    value = (value / unit).to(dtype).unflatten(-1, (heads, -1))  # (N, n, heads, d)
    gram = torch.einsum("bnhd,bmhd->bhnm", value, value)
    gram = torch.einsum("bhnm,hk->bhnkm", gram, torch.eye(heads, dtype=gram.dtype, device=gram.device))
    y_square = products(probs, gram.flatten(3).flatten(1, 2)) * probs  # sums to |y|² over pixels and directions
    y_square_sum = y_square.unflatten(1, (frames, pixels)).sum((2, 3), dtype=torch.float32)  # (N, F)
    probs = probs.unflatten(1, (frames, pixels))
    direction_sum = rearrange(value.sum(-1, dtype=torch.float32), "b n heads -> b (heads n) 1")
    y_sum = (probs.sum(2, dtype=torch.float32) @ direction_sum).squeeze(-1)  # (N, F)
    y_mean = y_sum / elements
    y_std = ((y_square_sum - y_sum * y_mean) / (elements - 1)).clamp(min=0).sqrt()

    z = image_value.float()
    z_mean = z.mean(-1)  # (N, 1)
    z_std = ((z - z_mean[..., None]).square().sum(-1) * (pixels / (elements - 1))).sqrt()
    scale = alignment_scale(z_std, y_std, dtype, STD_EPSILON / unit[..., 0])  # (N, F)

    output_proj = attn.to_out[0]
    output_fold = torch.einsum("bnhd,chd->bhnc", value, output_proj.weight.unflatten(-1, (heads, -1)))
    constant = output_proj((z + (z_mean - y_mean * scale)[..., None]).to(dtype))  # (N, F, C)
    probs = (probs * scale[..., None, None]).flatten(1, 2)
    output = products(probs, output_fold.flatten(1, 2)).unflatten(1, (frames, pixels)) + constant[:, :, None]
    return output.flatten(0, 1)


def products(a: Tensor, b: Tensor) -> Tensor:
    """(N, S, K) @ (N, K, C); one alone as a plain product, whose kernels are faster than those of a batch."""
    return (a[0] @ b[0])[None] if len(a) == 1 else a @ b
