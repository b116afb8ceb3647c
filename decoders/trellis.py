"""The decoder of TRELLIS' sparse structures: latents to the cells that a surface touches (arXiv 2412.01506)."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.voxels import VoxelBlock, VoxelNorm, sample_voxels

__all__ = ["VoxelDecoder"]


class VoxelUpsample(nn.Module):
    """Twice the resolution: a convolution to 8 C channels, (channel, offset x, y, z), folded into 2 x 2 x 2 cells.

    Args:
        channels_in: of the input.
        channels: C.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, 8 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, x, y, z) -> (B, C, 2 x, 2 y, 2 z)."""
        return rearrange(self.conv(x), "b (c p q r) x y z -> b c (x p) (y q) (z r)", p=2, q=2, r=2)


class VoxelDecoder(nn.Module):
    """Latents on a coarse grid to logits of occupancy: residual 3D convolutions, doubled between levels.

    Args:
        dim: D of the latents.
        channels: width of each level, coarsest first.
        depth: residual blocks per level.
        middle: residual blocks before the first level.
    """

    def __init__(self, *, dim: int, channels: Sequence[int], depth: int = 2, middle: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.conv_in = nn.Conv3d(dim, channels[0], 3, padding=1)
        self.middle = nn.Sequential(*(VoxelBlock(channels[0]) for _ in range(middle)))
        blocks: list[nn.Module] = []
        for level, width in enumerate(channels):
            if level:
                blocks.append(VoxelUpsample(channels[level - 1], width))
            blocks += [VoxelBlock(width) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm_out = VoxelNorm(channels[-1])
        self.conv_out = nn.Conv3d(channels[-1], 1, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, N, D) with z fastest -> logits (B, R, R, R), indexed [x, y, z]."""
        side = round(latents.shape[1] ** (1 / 3))
        grid = rearrange(latents, "b (x y z) d -> b d x y z", x=side, y=side)
        hidden = self.blocks(self.middle(self.conv_in(grid)))
        return self.conv_out(F.silu(self.norm_out(hidden)))[:, 0]

    def query(self, state: Tensor, queries: Tensor) -> Tensor:
        """Logits (B, Q) at points (B, Q, 3) of [-1, 1]^3, interpolated between the centres of cells."""
        return sample_voxels(state, queries)
