"""The Hilbert curve through the cube: an order of points in which neighbours are near each other."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["curve_points", "hilbert_index"]

FINEST = 4  # bits of the cells whose centres stand for the curve


def hilbert_index(cells: Tensor, bits: int) -> Tensor:
    """Where cells lie on the Hilbert curve (J. Skilling, Programming the Hilbert curve, 2004).

    Args:
        cells: (..., 3) int64 in [0, 2^bits).
        bits: of each axis.

    Returns:
        (...) int64 in [0, 8^bits); cells with consecutive indices share a face.
    """
    axes = list(cells.unbind(-1))
    for level in range(bits - 1, 0, -1):
        bit, low = 1 << level, (1 << level) - 1
        for axis in range(3):
            flip = axes[axis] & bit != 0
            swap = ((axes[0] ^ axes[axis]) & low).masked_fill(flip, 0)
            axes[0] = axes[0] ^ torch.where(flip, low, swap)
            if axis:
                axes[axis] = axes[axis] ^ swap
    for axis in (1, 2):
        axes[axis] = axes[axis] ^ axes[axis - 1]
    turn = torch.zeros_like(axes[0])
    for level in range(bits - 1, 0, -1):
        turn = torch.where(axes[2] & (1 << level) != 0, turn ^ ((1 << level) - 1), turn)
    index = torch.zeros_like(axes[0])
    for level in range(bits - 1, -1, -1):
        for cell in axes:
            index = (index << 1) | ((cell ^ turn) >> level & 1)
    return index


def curve_points(count: int) -> Tensor:
    """Points (count, 3) float32 in [-1, 1]^3, evenly along the curve: each is the mean of its share of the cells.

    Raises:
        ValueError: count is not between 1 and 4096.
    """
    side = 1 << FINEST
    if not 1 <= count <= side**3:
        raise ValueError(f"the curve holds 1 to {side**3} points, got {count}")
    cells = torch.cartesian_prod(*[torch.arange(side)] * 3)
    centres = (cells[hilbert_index(cells, FINEST).argsort()].float() + 0.5) * (2 / side) - 1
    return torch.stack([share.mean(0) for share in centres.tensor_split(count)])
