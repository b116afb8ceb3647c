"""Points in space: Fourier features, and few points that cover a cloud."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from encoders.layers.fixed import Fixed

__all__ = ["FourierPoints", "farthest_points", "take_points"]


class FourierPoints(nn.Module):
    """Sines and cosines of coordinates beside the coordinates themselves (NeRF, arXiv 2003.08934, Eq. 4).

    Sines come before cosines, each ordered by axis and within an axis from low to high frequency.

    Args:
        bands: K, frequencies 2^0 ... 2^(K - 1) of each axis.
        pi: whether frequencies are multiplied by pi.
        raw: where the coordinates stand: "last" (3DShape2VecSet) or "first" (Michelangelo).

    Attributes:
        dim: of the features, 3 + 6 K.

    Raises:
        ValueError: bands < 1, or raw is neither.
    """

    def __init__(self, bands: int = 8, *, pi: bool = True, raw: Literal["first", "last"] = "last") -> None:
        super().__init__()
        if bands < 1 or raw not in ("first", "last"):
            raise ValueError(f"bands must be at least 1 and raw 'first' or 'last', got {bands} and {raw!r}")
        self.raw = raw
        self.dim = 3 + 6 * bands
        self.frequencies = Fixed(lambda: torch.tensor([2.0**band * (math.pi if pi else 1) for band in range(bands)]))

    def forward(self, points: Tensor) -> Tensor:
        """(..., 3) -> (..., 3 + 6 K) float32, whatever the autocast state: half precision cannot tell points apart."""
        points = points.float()
        angles = (points[..., None] * self.frequencies(points.device)).flatten(-2)
        parts = [angles.sin(), angles.cos()]
        return torch.cat([points, *parts] if self.raw == "first" else [*parts, points], dim=-1)


@torch.no_grad()
def farthest_points(points: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Farthest point sampling: each next point is the one farthest from those chosen (Eldar et al., 1997).

    Args:
        points: (B, P, D), D coordinates.
        count: M points to choose, 1 to P.
        generator: draws the first point of each item; None starts at its first.

    Returns:
        (B, M) int64 indices in the order of choice; where clouds hold the same point several times, of ties the first.

    Raises:
        ValueError: count is not between 1 and P.
    """
    batch, total = points.shape[:2]
    if not 1 <= count <= total:
        raise ValueError(f"farthest point sampling chooses 1 to {total} of {total} points, got {count}")
    axes = points.float().mT.contiguous()
    chosen = torch.zeros(batch, count, dtype=torch.int64, device=points.device)
    if generator is not None:
        chosen[:, 0] = torch.randint(total, (batch,), generator=generator, device=generator.device).to(points.device)
    nearest = torch.full((batch, total), math.inf, device=points.device)
    for step in range(1, count):
        last = axes.gather(2, chosen[:, None, step - 1 : step].expand(-1, axes.shape[1], -1))
        distance = (axes - last).square_().sum(1)
        chosen[:, step] = torch.minimum(nearest, distance, out=nearest).argmax(1)
    return chosen


def take_points(points: Tensor, indices: Tensor) -> Tensor:
    """Of points (B, P, C) those of indices (B, M): (B, M, C)."""
    return points.gather(1, indices[..., None].expand(-1, -1, points.shape[2]))
