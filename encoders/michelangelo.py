"""Michelangelo's encoder: learned queries read a cloud once, then mix (arXiv 2306.17115, Sec. 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.layers.attention import MLP, Block
from encoders.layers.init import draw_normal
from encoders.layers.points import FourierPoints
from encoders.layers.set_attention import ReadBlock

__all__ = ["MichelangeloEncoder"]


class MichelangeloEncoder(nn.Module):
    """Clouds (B, P, 3 + features) to a set of latents (B, N, D).

    Args:
        dim: D.
        width: W of the transformer.
        depth: blocks of self-attention behind the one that reads the cloud.
        heads: of every attention.
        num_tokens: N.
        features: columns behind x, y, z: 3 for normals.
        aligned: whether one more query stands in front, whose result describes the whole shape and is aligned with CLIP
            in training; it is no part of the code.
        bands, pi: of the Fourier features.
        bias: of the projections to queries, keys and values.
        norm_output: whether a normalisation ends the transformer.
        init_scale: weights start with this deviation over sqrt(W).

    Attributes:
        channels: 3 + features.
    """

    def __init__(
        self,
        dim: int,
        width: int = 768,
        depth: int = 8,
        heads: int = 12,
        num_tokens: int = 256,
        features: int = 3,
        aligned: bool = True,
        bands: int = 8,
        pi: bool = False,
        bias: bool = False,
        norm_output: bool = True,
        init_scale: float = 0.25,
    ) -> None:
        super().__init__()
        self.dim, self.num_tokens, self.channels, self.aligned = dim, num_tokens, 3 + features, aligned
        self.fourier = FourierPoints(bands, pi=pi, raw="first")
        self.embed = nn.Linear(self.fourier.dim + features, width)
        self.queries = nn.Parameter(torch.randn(num_tokens + aligned, width) * 0.02)
        self.read = ReadBlock(width, heads, MLP(width, 4 * width), bias=bias)
        self.blocks = nn.ModuleList(Block(width, heads, bias=bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm_output else nn.Identity()
        self.proj = nn.Linear(width, dim)
        draw_normal(self.read, init_scale * width**-0.5)
        draw_normal(self.blocks, init_scale * width**-0.5)

    def tokens(self, x: Tensor) -> Tensor:
        """(B, P, 3 + features) -> (B, N, W), or (B, 1 + N, W) with the description of the shape first."""
        points = torch.cat([self.fourier(x[..., :3]).to(x.dtype), x[..., 3:]], dim=-1)
        memory = self.read.memory(self.embed(points.to(self.embed.weight.dtype)))
        tokens = self.read(self.queries.expand(len(x), -1, -1), memory)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, 3 + features) -> (B, N, D)."""
        return self.proj(self.tokens(x)[:, int(self.aligned) :])
