"""Between two scales: resampling on a grid, and the convolution that refines what was enlarged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Phi", "enlarge", "nearest_tick", "shrink"]

Grid = tuple[int, int]


class Phi(nn.Module):
    """(1 - ratio) x + ratio conv(x), a convolution three wide along every axis longer than one (arXiv 2404.02905).

    Args:
        dim: channels.
        ratio: share of the convolution.
        grid: (h, w); a line (1, w) is convolved along w alone.
    """

    def __init__(self, dim: int, ratio: float, grid: Grid) -> None:
        super().__init__()
        self.ratio = ratio
        kernel = (1 if grid[0] == 1 else 3, 3)
        self.conv = nn.Conv2d(dim, dim, kernel, padding=(kernel[0] // 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, w) to (B, dim, h, w)."""
        return x.lerp(self.conv(x), self.ratio)


def nearest_tick(scale: int, scales: int, count: int) -> int:
    """Which of `count` convolutions serves a scale: the one whose tick is closest to scale / (scales - 1).

    Ticks lie in the middle of `count` equal parts of [0, 1]; of four, a little further out, at 1/12, ... 11/12. Of two
    equally close the first one, in float64 as numpy's linspace computes it.

    Args:
        scale: in [0, scales), coarse to fine.
        scales: how many there are.
        count: convolutions, at least 1.
    """
    if count == 1:
        return 0
    start = 1 / 3 / count if count == 4 else 1 / 2 / count
    stop = 1 - start
    step = (stop - start) / (count - 1)
    ticks = [index * step + start for index in range(count - 1)] + [stop]
    place = scale / max(scales - 1, 1)
    return min(range(count), key=lambda index: abs(ticks[index] - place))


def shrink(x: Tensor, grid: Grid, share: Tensor | None = None) -> Tensor:
    """Average (B, D, H, W) over the cells of a smaller grid, (B, D, h, w); cells overlap where sizes do not divide.

    Args:
        x: zero at padding.
        grid: (h, w).
        share: (B, 1, h, w), which part of each cell is no padding; averages are over that part. None: all of it.
    """
    if grid == x.shape[2:]:
        return x
    means = F.adaptive_avg_pool2d(x, grid)
    return means if share is None else means / share.clamp_min(torch.finfo(share.dtype).tiny)


def enlarge(x: Tensor, grid: Grid) -> Tensor:
    """Interpolate (B, D, h, w) to a larger grid, bicubic; linear along a line, where h = 1.

    One product with a small matrix along each axis, with torch's own weights: its gradient is much faster than that of
    `F.interpolate` and, unlike it, deterministic on GPUs.
    """
    mode = "bilinear" if grid[0] == 1 else "bicubic"
    rows = x.permute(0, 2, 3, 1)
    if grid[1] != x.shape[3]:
        rows = torch.matmul(_weights(x.shape[3], grid[1], mode, x.device), rows)
    if grid[0] != x.shape[2]:
        columns = torch.matmul(_weights(x.shape[2], grid[0], mode, x.device), rows.flatten(2))
        rows = columns.unflatten(2, rows.shape[2:])
    return rows.permute(0, 3, 1, 2)


def _weights(size: int, length: int, mode: str, device: torch.device) -> Tensor:
    """(length, size): row i interpolates `size` values at place i of `length`."""
    steps = torch.eye(size, device=device)[None, :, None]
    return F.interpolate(steps, (1, length), mode=mode, align_corners=False)[0, :, 0].T
