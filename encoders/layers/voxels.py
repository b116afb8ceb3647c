"""Clouds as occupancy grids, grids as functions of space, and residual convolutions of grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VoxelBlock", "VoxelNorm", "sample_voxels", "voxelize"]


def voxelize(points: Tensor, resolution: int, bounds: float = 1.0) -> Tensor:
    """The cells of a grid over [-bounds, bounds]^3 that hold a point.

    Args:
        points: (B, P, 3) x, y, z; those outside the cube go to the nearest cell.
        resolution: R, cells along each axis.
        bounds: half the side of the cube.

    Returns:
        (B, R, R, R) float32 of 0 and 1, indexed [x, y, z].
    """
    places = ((points.float() / bounds + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)
    cells = (places[..., 0] * resolution + places[..., 1]) * resolution + places[..., 2]
    grid = torch.zeros(len(points), resolution**3, device=points.device)
    return grid.scatter_(1, cells, 1.0).view(-1, resolution, resolution, resolution)


def sample_voxels(grid: Tensor, points: Tensor) -> Tensor:
    """Values between the centres of cells, by trilinear interpolation; beyond the outer centres, the nearest value.

    Args:
        grid: (B, R, R, R) values of the cells of [-1, 1]^3, indexed [x, y, z].
        points: (B, Q, 3) x, y, z.

    Returns:
        (B, Q) float32.
    """
    # torch names the last axis of a grid first
    places = points.float().flip(-1)[:, :, None, None]
    values = F.grid_sample(grid[:, None].float(), places, padding_mode="border", align_corners=False)
    return values[:, 0, :, 0, 0]


class VoxelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a grid, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, x, y, z) -> the same shape."""
        weight, bias = self.weight.float(), self.bias.float()
        normed = F.layer_norm(x.movedim(1, -1).float(), self.normalized_shape, weight, bias, self.eps)
        return normed.movedim(-1, 1).to(x.dtype)


class VoxelBlock(nn.Module):
    """Two normalised convolutions with a residual, which start as the identity.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = VoxelNorm(channels), VoxelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, x, y, z) -> the same shape."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))
