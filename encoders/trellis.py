"""The encoder of TRELLIS' sparse structures: the cells that a surface touches to latents (arXiv 2412.01506)."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.voxels import VoxelBlock, VoxelNorm

__all__ = ["VoxelEncoder"]


class VoxelEncoder(nn.Module):
    """Occupancy grids to latents on a coarser grid: residual 3D convolutions, halved between levels.

    Args:
        dim: width of the latents; 2 D for means and log-variances.
        resolution: R of the grid, a multiple of 2 for each level but the last.
        channels: width of each level, finest first.
        depth: residual blocks per level.
        middle: residual blocks after the last level.

    Attributes:
        channels: of the clouds that grids are made of: x, y, z.
        num_tokens: N, cells of the coarsest grid.

    Raises:
        ValueError: no level, or a resolution that cannot be halved so often.
    """

    channels = 3

    def __init__(self, *, dim: int, resolution: int, channels: Sequence[int], depth: int = 2, middle: int = 2) -> None:
        super().__init__()
        factor = 2 ** (len(channels) - 1)
        if not channels or resolution < factor or resolution % factor:
            raise ValueError(
                f"{len(channels)} levels need a resolution that is a multiple of {factor}, got {resolution}"
            )
        self.dim, self.resolution, self.num_tokens = dim, resolution, (resolution // factor) ** 3
        self.conv_in = nn.Conv3d(1, channels[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for level, width in enumerate(channels):
            if level:
                blocks.append(nn.Conv3d(channels[level - 1], width, 2, stride=2))
            blocks += [VoxelBlock(width) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.middle = nn.Sequential(*(VoxelBlock(channels[-1]) for _ in range(middle)))
        self.norm_out = VoxelNorm(channels[-1])
        self.conv_out = nn.Conv3d(channels[-1], dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Grids (B, 1, R, R, R) of 0 and 1, indexed [x, y, z], to latents (B, N, dim) with z fastest."""
        hidden = self.middle(self.blocks(self.conv_in(x)))
        return rearrange(self.conv_out(F.silu(self.norm_out(hidden))), "b d x y z -> b (x y z) d")
