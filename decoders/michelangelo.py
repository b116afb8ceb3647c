"""Michelangelo's decoder: a transformer over the latents, then a block of cross-attention from any point in space."""

from __future__ import annotations

from torch import Tensor, nn

from encoders.layers.attention import MLP, Block
from encoders.layers.init import draw_normal
from encoders.layers.points import FourierPoints
from encoders.layers.set_attention import ReadBlock

__all__ = ["MichelangeloDecoder"]


class MichelangeloDecoder(nn.Module):
    """Latents (B, N, D) to values at points (arXiv 2306.17115, Sec. 3.1).

    Args:
        dim: D.
        width: W of the transformer.
        depth: blocks of self-attention.
        heads: of every attention.
        bands, pi: of the points' Fourier features.
        bias: of the projections to queries, keys and values.
        init_scale: weights start with this deviation over sqrt(W).
    """

    def __init__(
        self,
        dim: int,
        width: int = 768,
        depth: int = 16,
        heads: int = 12,
        bands: int = 8,
        pi: bool = False,
        bias: bool = False,
        init_scale: float = 0.25,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.proj = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Block(width, heads, bias=bias) for _ in range(depth))
        self.fourier = FourierPoints(bands, pi=pi, raw="first")
        self.embed = nn.Linear(self.fourier.dim, width)
        self.read = ReadBlock(width, heads, MLP(width, 4 * width), bias=bias)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        draw_normal(self.blocks, init_scale * width**-0.5)
        draw_normal(self.read, init_scale * width**-0.5)

    def members(self, latents: Tensor) -> Tensor:
        """The set that points read: (B, N, D) -> (B, N, W)."""
        x = self.proj(latents)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, N, d) of the latents (B, N, D), computed once for all points."""
        return self.read.memory(self.members(latents))

    def query(self, state: tuple[Tensor, Tensor], queries: Tensor) -> Tensor:
        """Values (B, Q) at points (B, Q, 3)."""
        embedded = self.embed(self.fourier(queries).to(self.embed.weight.dtype))
        return self.head(self.norm(self.read(embedded, state)))[..., 0]
