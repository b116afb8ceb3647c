"""Rotary positions of generators: tables with a row for every place of a sequence, and the rotation (2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.layers.rotary import grid_positions, line_positions, rotary_table

__all__ = ["places", "rotate", "spread_table"]


def places(prefix: int, line: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Where every element of a sequence stands.

    Args:
        prefix: T elements of the condition, first in the sequence.
        line: (S,) int64 position n of the codes that each following element stands for.
        grid: (h, w) of these positions for two axes; None for one, on which elements are counted.

    Returns:
        (T + S, 1) int64, 0, 1, 2, ...; or with a grid (T + S, 2): the condition at (0, 0), codes at row and column,
        both from 1 on.
    """
    if grid is None:
        return line_positions(prefix + len(line), axes=1)
    return torch.cat([torch.zeros(prefix, 2, dtype=torch.int64), grid_positions(*grid, start=1)[line]])


def spread_table(positions: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """(2, L, D) float32 for `rotate`: cosines, and sines of which those of the first half are negative.

    Args:
        positions: (L, A) of A axes.
        head_dim: D, a multiple of 2 A.
        theta: longest wavelength over 2 pi.
    """
    cosine, sine = rotary_table(positions, head_dim, theta)
    return torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn channels i and i + D / 2 together, as `encoders.layers.rotary.rotate_halves` does, in three operations.

    Args:
        x: (..., L, D).
        table: (2, L, D) of `spread_table`, in x's dtype.
    """
    return torch.addcmul(x * table[0], x.roll(x.shape[-1] // 2, -1), table[1])
