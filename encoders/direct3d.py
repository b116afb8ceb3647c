"""Direct3D's encoder: learned tokens of three planes read a cloud of points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.layers.attention import MLP, Block, embedding
from encoders.layers.points import FourierPoints
from encoders.layers.set_attention import ReadBlock

__all__ = ["TriplaneEncoder"]


class TriplaneEncoder(nn.Module):
    """Learned tokens, r^2 for each of three planes, attend once to a cloud and then to each other (arXiv 2405.14832).

    Args:
        dim: width of a token's latent; twice the channels of a Gaussian one, means first.
        resolution: r of a plane of tokens.
        features: columns of a point beside x, y, z: 3 for a normal.
        width: of the transformer.
        depth: blocks of self-attention.
        heads: a divisor of the width.
        bands: frequencies of the Fourier features, 2^0, 2^1, ... without pi.
    """

    def __init__(
        self,
        *,
        dim: int,
        resolution: int = 32,
        features: int = 3,
        width: int = 768,
        depth: int = 8,
        heads: int = 12,
        bands: int = 8,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.resolution = resolution
        self.num_tokens = 3 * resolution**2
        self.channels = 3 + features
        self.fourier = FourierPoints(bands, pi=False, raw="first")
        self.points = nn.Linear(self.fourier.dim + features, width)
        self.tokens = embedding(self.num_tokens, width)
        self.read = ReadBlock(width, heads, MLP(width, 4 * width))
        self.blocks = nn.ModuleList(Block(width, heads, bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.moments = nn.Linear(width, dim)

    def attend(self, x: Tensor) -> Tensor:
        """Clouds (B, P, 3 + features) to tokens (B, 3 r^2, W), plane by plane in raster order."""
        points = self.points(torch.cat([self.fourier(x[..., :3]).to(x.dtype), x[..., 3:]], dim=-1))
        tokens = self.read(self.tokens.expand(len(x), -1, -1), self.read.memory(points))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Clouds (B, P, 3 + features) to latents (B, 3 r^2, D)."""
        return self.moments(self.attend(x))
