"""A convolutional decoder: trunk on the token grid, linear synthesis, refinement at a quarter of the resolution."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.dct import init_patch_synthesis
from encoders.layers.init import start_at_zero
from encoders.layers.residual import ResidualConv

__all__ = ["PatchConvDecoder"]


class PatchConvDecoder(nn.Module):
    """Residual convolutions over the token grid, an inverse patch transform, and a refinement across patch borders.

    The mirror of `encoders.PatchConvEncoder`: it starts as the inverse colour-DCT of the strongest coefficients.

    Args:
        dim: width D of the latents.
        patch_size: pixels per token along each axis; a multiple of `fine`.
        width: channels of the trunk.
        depth: residual blocks of the trunk.
        fine: pixels per cell of the refinement grid.
        fine_width: channels of the refinement.
        fine_depth: residual blocks of the refinement.
    """

    def __init__(
        self,
        dim: int,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 6,
        fine: int = 4,
        fine_width: int = 64,
        fine_depth: int = 2,
    ) -> None:
        super().__init__()
        if patch_size % fine:
            raise ValueError(f"patch_size must be a multiple of fine={fine}, got {patch_size}")
        ratio = patch_size // fine
        self.dim = dim
        self.downsample = patch_size
        self.stem = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualConv(width) for _ in range(depth)))
        self.synthesis = nn.ConvTranspose2d(width, 3, patch_size, stride=patch_size)
        self.refine = nn.Sequential(
            nn.Conv2d(width, fine_width * ratio**2, 1),
            nn.PixelShuffle(ratio),
            *(ResidualConv(fine_width) for _ in range(fine_depth)),
            nn.GELU(),
            nn.Conv2d(fine_width, 3 * fine**2, 3, padding=1),
            nn.PixelShuffle(fine),
        )
        init_patch_synthesis(self.synthesis)
        with torch.no_grad():
            self.stem.weight.mul_(0.1)
            self.stem.weight[:, :, 1, 1] += torch.eye(width, dim)
        start_at_zero(self.refine[-2])

    def forward(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latents (B, h * w, D) in raster order, grid (h, w) -> images (B, 3, H, W) around [-1, 1]."""
        h, w = grid
        return self.render(rearrange(latents, "b (h w) d -> b d h w", h=h, w=w))

    def render(self, latents: Tensor) -> Tensor:
        """As `forward`, for latents that already are a map (B, D, h, w)."""
        features = self.blocks(self.stem(latents))
        return self.synthesis(features) + self.refine(features)
