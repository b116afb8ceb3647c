"""Triplanes: three feature maps that cross in space, and the network that reads them at a point (arXiv 2112.07945)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.points import FourierPoints

__all__ = ["PLANES", "TriplaneHead", "project", "sample_planes"]

PLANES = ((0, 1), (0, 2), (2, 1))  # axes of space along the columns and along the rows of each plane: xy, xz, zy


def project(points: Tensor) -> Tensor:
    """Points (B, Q, 3) on the planes: (B, 3, Q, 2), column before row, as `grid_sample` wants them."""
    return torch.stack([points[..., axes] for axes in PLANES], dim=1)


def sample_planes(
    planes: Tensor, points: Tensor, *, bounds: float = 1.0, outside: Literal["zeros", "border"] = "zeros"
) -> Tensor:
    """Bilinear features of points on each plane.

    Args:
        planes: (B, 3, C, R, R), pixels being cells of [-bounds, bounds]^2.
        points: (B, Q, 3).
        bounds: half the side of the cube that the planes cut.
        outside: what is read beyond the planes: nothing, or their border.

    Returns:
        (B, 3, Q, C).
    """
    grid = (project(points) / bounds).flatten(0, 1)[:, :, None].to(planes.dtype)
    found = F.grid_sample(planes.flatten(0, 1), grid, padding_mode=outside, align_corners=False)
    return found[..., 0].mT.unflatten(0, planes.shape[:2])


class TriplaneHead(nn.Module):
    """The features that a point has on the three planes, side by side, through an MLP with ReLU.

    Args:
        channels: C of a plane.
        hidden: width of the hidden layers.
        depth: linear layers, at least 1.
        bounds: half the side of the cube that the planes cut.
        outside: see `sample_planes`.
        bands: frequencies of Fourier features of the point itself, beside those of the planes; 0 for none.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 64,
        depth: int = 3,
        *,
        bounds: float = 1.0,
        outside: Literal["zeros", "border"] = "zeros",
        bands: int = 0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.bounds = bounds
        self.outside: Literal["zeros", "border"] = outside
        self.fourier = FourierPoints(bands, pi=False, raw="first") if bands else None
        widths = [3 * channels + (self.fourier.dim if self.fourier else 0), *[hidden] * (depth - 1), 1]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, planes: Tensor, points: Tensor) -> Tensor:
        """Planes (B, 3, C, R, R) and points (B, Q, 3) -> values (B, Q)."""
        features = sample_planes(planes, points, bounds=self.bounds, outside=self.outside).transpose(1, 2).flatten(2)
        if self.fourier is not None:
            features = torch.cat([features, self.fourier(points).to(features.dtype)], dim=-1)
        return self.net(features)[..., 0]
