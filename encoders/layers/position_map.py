"""A learned map of positions that serves grids of several sizes."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PositionMap"]


class PositionMap(nn.Module):
    """One vector for each cell of a square map; a grid reads the nearest ones.

    Args:
        side: cells along each axis of the map.
        width: W of the vectors, drawn from N(0, 1 / W).
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(width, side, side) * width**-0.5)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """(h * w, W) for a grid (h, w), row by row."""
        return rearrange(F.interpolate(self.map[None], size=grid, mode="nearest")[0], "c h w -> (h w) c")
