"""3DShape2VecSet's encoder: a set of queries reads a cloud once (arXiv 2301.11445, Sec. 5.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from encoders.layers.geglu import GEGLU
from encoders.layers.points import FourierPoints, farthest_points, take_points
from encoders.layers.set_attention import ReadBlock

__all__ = ["VecSetEncoder"]


class VecSetEncoder(nn.Module):
    """Clouds (B, P, 3) to a set of latents (B, N, D).

    Queries are N points of the cloud that farthest point sampling chooses, embedded as all points are, or N learned
    vectors. They read the cloud by one block of cross-attention and a gated MLP. What follows is linear, if anything.

    Args:
        dim: D.
        width: W of the block.
        num_tokens: N.
        heads: of the cross-attention.
        queries: "points" or "learned" (VecSetX).
        project: whether a linear map W -> D ends the encoder; without one, D = W.
        normalize: whether latents are then normalised, without gain and bias: VecSetX's bottleneck, which is LaGeM's
            (arXiv 2410.01295).
        norm_context: whether the embedded points are normalised before they are read.
        bands: frequencies of the Fourier features.

    Attributes:
        channels: 3, coordinates only.
        min_points: fewest points of a cloud.

    Raises:
        ValueError: values that do not fit each other.
    """

    channels = 3

    def __init__(
        self,
        dim: int,
        width: int = 512,
        num_tokens: int = 512,
        heads: int = 1,
        queries: Literal["points", "learned"] = "points",
        project: bool = True,
        normalize: bool = False,
        norm_context: bool = True,
        bands: int = 8,
    ) -> None:
        super().__init__()
        if queries not in ("points", "learned"):
            raise ValueError(f"queries is 'points' or 'learned', got {queries!r}")
        if not project and dim != width:
            raise ValueError(f"without project the latents are {width} wide, got dim={dim}")
        self.dim, self.num_tokens = dim, num_tokens
        self.min_points = num_tokens if queries == "points" else 1
        self.fourier = FourierPoints(bands)
        self.embed = nn.Linear(self.fourier.dim, width)
        self.queries = nn.Parameter(torch.randn(num_tokens, width)) if queries == "learned" else None
        self.read = ReadBlock(width, heads, GEGLU(width, 4 * width), norm_context=norm_context)
        self.proj = nn.Linear(width, dim) if project else nn.Identity()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False) if normalize else nn.Identity()

    def features(self, points: Tensor) -> Tensor:
        """Embedded points: (..., 3) -> (..., W)."""
        return self.embed(self.fourier(points).to(self.embed.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, 3) -> (B, N, D)."""
        embedded = self.features(x)
        if self.queries is None:
            queries = take_points(embedded, farthest_points(x, self.num_tokens))
        else:
            queries = self.queries.expand(len(x), -1, -1)
        return self.norm(self.proj(self.read(queries, self.read.memory(embedded))))
