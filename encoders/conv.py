"""A convolutional encoder that works at the token grid's resolution."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.dct import init_patch_analysis
from encoders.layers.residual import ResidualConv

__all__ = ["PatchConvEncoder"]


class PatchConvEncoder(nn.Module):
    """Image patches, residual convolutions over their grid, and a projection to latents.

    The patch embedding starts as a whitened colour-DCT and the projection as its strongest coefficients, so that an
    untrained model already is a linear transform codec. All arithmetic is at 1/patch resolution, where dense
    convolutions are efficient on any machine.

    Args:
        dim: width D of the latents.
        patch_size: pixels per token along each axis.
        width: channels of the trunk.
        depth: residual blocks.
    """

    def __init__(self, dim: int, patch_size: int = 8, width: int = 192, depth: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.downsample = patch_size
        self.patch = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(*(ResidualConv(width) for _ in range(depth)))
        self.head = nn.Conv2d(width, dim, 1)
        init_patch_analysis(self.patch)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(dim, width)[..., None, None])
        nn.init.zeros_(self.head.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], sides divisible by `downsample` -> latents (B, h * w, D), raster order."""
        return rearrange(self.head(self.blocks(self.patch(x))), "b d h w -> b (h w) d")
