"""Tokens arranged as grids of growing resolution over one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["check_levels", "gather_levels", "levels_within", "spread_levels", "token_gains"]


def check_levels(levels: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Levels as (h, w) pairs, coarse to fine.

    Raises:
        ValueError: a level does not divide the last one.
    """
    grids = tuple((int(h), int(w)) for h, w in levels)
    height, width = grids[-1]
    for h, w in grids:
        if h < 1 or w < 1 or height % h or width % w:
            raise ValueError(f"every level must divide the finest one, {grids[-1]}; {(h, w)} does not")
    return grids


def levels_within(
    levels: Sequence[Sequence[int]], grid: tuple[int, int], num_tokens: int
) -> tuple[tuple[int, int], ...]:
    """Levels as (h, w) pairs over a grid of patches.

    Raises:
        ValueError: a level does not divide the grid, or they have another number of tokens.
    """
    *grids, _ = check_levels([*levels, grid])
    if (count := sum(h * w for h, w in grids)) != num_tokens:
        raise ValueError(f"levels {grids} have {count} tokens, not num_tokens={num_tokens}")
    return tuple(grids)


def token_gains(
    levels: Sequence[tuple[int, int]], gains: Sequence[float] | None, dim: int, *, inverse: bool = False
) -> nn.Parameter:
    """(N, dim) gains of tokens, which start as those of their levels, or one over them; None for 1.

    Raises:
        ValueError: a gain for each level is missing, or one is not positive.
    """
    values = [1.0] * len(levels) if gains is None else [float(gain) for gain in gains]
    if len(values) != len(levels) or min(values) <= 0:
        raise ValueError(f"gains are one positive number for each of {len(levels)} levels, got {values}")
    rows = torch.cat([torch.full((h * w, dim), gain) for (h, w), gain in zip(levels, values, strict=True)])
    return nn.Parameter(1 / rows if inverse else rows)


def gather_levels(features: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
    """Pool a feature map level by level, each level taking what the coarser ones left (Laplacian pyramid).

    Args:
        features: (B, C, H, W), sides divisible by those of every level.
        levels: (h, w) grids, coarse to fine.

    Returns:
        (B, N, C), N the sum of h * w; raster order within a level.
    """
    tokens = []
    for h, w in levels:
        size = (features.shape[2] // h, features.shape[3] // w)
        pooled = F.avg_pool2d(features, size)
        features = features - F.interpolate(pooled, size=features.shape[2:])
        tokens.append(rearrange(pooled, "b c h w -> b (h w) c"))
    return torch.cat(tokens, dim=1)


def spread_levels(tokens: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
    """Sum tokens over the cells that they cover on the finest level; the transpose of gathering.

    Args:
        tokens: (B, n, C), a prefix of the N tokens of all levels; missing ones count as zero.
        levels: (h, w) grids, coarse to fine.

    Returns:
        (B, C, H, W) on the last level's grid.
    """
    height, width = levels[-1]
    total = tokens.new_zeros(len(tokens), tokens.shape[2], height, width)
    start = 0
    for h, w in levels:
        part = tokens[:, start : start + h * w]
        if part.shape[1] == 0:
            break
        part = F.pad(part, (0, 0, 0, h * w - part.shape[1]))
        grid = rearrange(part, "b (h w) c -> b c h w", h=h)
        total = total + F.interpolate(grid, size=(height, width))
        start += h * w
    return total
