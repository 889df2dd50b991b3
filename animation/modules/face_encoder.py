"""The content-aware FaceEncoder: a face embedding, fused with the photo's image token, becomes identity tokens."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from einops import rearrange
from torch import nn

HEAD_DIM = 64


class PerceiverAttention(nn.Module):
    """Identity tokens attend to the image tokens and to themselves."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * HEAD_DIM, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * HEAD_DIM, dim, bias=False)

    def forward(self, image_tokens: torch.Tensor, id_tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, dim) and (B, n, dim) → (B, n, dim)."""
        image_tokens, id_tokens = self.norm1(image_tokens), self.norm2(id_tokens)
        key, value = self.to_kv(torch.cat([image_tokens, id_tokens], dim=1)).chunk(2, dim=-1)
        query, key, value = (
            rearrange(states, "b tokens (heads d) -> b heads tokens d", heads=self.heads)
            for states in (self.to_q(id_tokens), key, value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(attended, "b heads tokens d -> b tokens (heads d)"))


class PerceiverResampler(nn.Module):
    """Layers of attention and feed-forward, residual inside, without a shortcut around the whole."""

    def __init__(self, dim: int, image_dim: int, heads: int, feed_forward_dim: int, layers: int):
        super().__init__()
        self.proj_in = nn.Linear(image_dim, dim)
        self.proj_out = nn.Linear(dim, dim)
        for parameter in self.proj_out.parameters():  # training starts from identity tokens of zero
            nn.init.zeros_(parameter)
        self.norm_out = nn.LayerNorm(dim)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            attention = PerceiverAttention(dim, heads)
            up, down = nn.Linear(dim, feed_forward_dim, bias=False), nn.Linear(feed_forward_dim, dim, bias=False)
            feed_forward = nn.Sequential(nn.LayerNorm(dim), up, nn.GELU(), down)
            self.layers.append(nn.ModuleList([attention, feed_forward]))

    def forward(self, image_tokens: torch.Tensor, id_tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, image_dim) and (B, n, dim) → (B, n, dim)."""
        image_tokens = self.proj_in(image_tokens)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            id_tokens = id_tokens + attention(image_tokens, id_tokens)
            id_tokens = id_tokens + feed_forward(id_tokens)
        return self.norm_out(self.proj_out(id_tokens))


class FaceEncoder(ModelMixin, ConfigMixin):
    """Content-aware face encoder (StableAnimator, section 3.2).

    Args:
        embedding_dim: length of the face embedding.
        hidden_dim: width between the two linear layers that make tokens of it.
        num_tokens: identity tokens made of one face.
        dim: width of a token, the UNet's cross-attention width.
        image_dim: width of the image token.
        heads, feed_forward_dim, layers: of the Perceiver that fuses the two.
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        hidden_dim: int = 1024,
        num_tokens: int = 4,
        dim: int = 1024,
        image_dim: int = 1024,
        heads: int = 16,
        feed_forward_dim: int = 4096,
        layers: int = 4,
    ):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(embedding_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim * num_tokens)
        )
        self.norm = nn.LayerNorm(dim)
        self.fusion_model = PerceiverResampler(dim, image_dim, heads, feed_forward_dim, layers)

    @staticmethod
    def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict:
        """The constructor's arguments for a state dict, given each tensor's shape (KeyError: not a FaceEncoder's)."""
        dim = shapes["norm.weight"][0]
        layer_names = {name.split(".")[2] for name in shapes if name.startswith("fusion_model.layers.")}
        return {
            "embedding_dim": shapes["proj.0.weight"][1],
            "hidden_dim": shapes["proj.0.weight"][0],
            "num_tokens": shapes["proj.2.weight"][0] // dim,
            "dim": dim,
            "image_dim": shapes["fusion_model.proj_in.weight"][1],
            "heads": shapes["fusion_model.layers.0.0.to_q.weight"][0] // HEAD_DIM,
            "feed_forward_dim": shapes["fusion_model.layers.0.1.1.weight"][0],
            "layers": len(layer_names),
        }

    def forward(self, face_embedding: torch.Tensor, image_tokens: torch.Tensor) -> torch.Tensor:
        """Make identity tokens, (B, num_tokens, dim).

        Args:
            face_embedding: (B, embedding_dim), raw (not normalised); zeros where the photo shows no face.
            image_tokens: (B, T, image_dim), CLIP's embedding of the whole photo.
        """
        id_tokens = rearrange(self.proj(face_embedding), "b (tokens dim) -> b tokens dim", dim=self.config.dim)
        return self.fusion_model(image_tokens, self.norm(id_tokens))
