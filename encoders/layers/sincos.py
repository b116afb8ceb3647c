"""Fixed sine and cosine features of positions and times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sincos_2d", "sinusoid"]


def sincos_2d(height: int, width: int, dim: int) -> Tensor:
    """Positions of a grid (MAE, arXiv 2111.06377): sine and cosine of y, then of x, a quarter of the channels each.

    Args:
        height, width: of the grid, cells.
        dim: D, a multiple of 4.

    Returns:
        (height, width, D) float32.

    Raises:
        ValueError: D is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2D sine-cosine table needs a width that is a multiple of 4, got {dim}")
    frequency = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    x = torch.arange(width, dtype=torch.float64)[:, None] * frequency
    y = torch.arange(height, dtype=torch.float64)[:, None] * frequency
    rows = torch.cat([y.sin(), y.cos()], dim=-1)[:, None].expand(-1, width, -1)
    columns = torch.cat([x.sin(), x.cos()], dim=-1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).float()


def sinusoid(times: Tensor, dim: int, *, max_period: float, factor: float = 1.0) -> Tensor:
    """Features of times: cosines, then sines, of `factor * t * max_period^(-i / (dim / 2))`.

    Args:
        times: (B,).
        dim: of the features, even.
        max_period: ratio of the fastest frequency to the one after the slowest.
        factor: of all frequencies.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=times.device)
    angles = times.float()[:, None] * (factor * torch.exp(-math.log(max_period) * steps / half))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
