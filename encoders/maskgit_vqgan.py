"""The encoder of the MaskGIT-VQGAN (arXiv 2202.04200), the teacher of TiTok's first stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.maskgit import activate, group_norm, residual_stack

__all__ = ["MaskGITEncoder"]


class MaskGITEncoder(nn.Module):
    """Images of any size to a raster of latents.

    Args:
        dim: width of one latent.
        channels: width of the finest level; a multiple of 32.
        multipliers: width of each level over `channels`; every level but the last halves the resolution.
        depth: residual blocks a level.
        middle_depth: residual blocks at the coarsest resolution; None for `depth`.

    Attributes:
        downsample: pixels per latent along each axis, 2 ** (levels - 1).
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        depth: int = 2,
        middle_depth: int | None = None,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        self.dim, self.downsample = dim, 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            residual_stack(before, after, depth) for before, after in pairwise([channels, *widths])
        )
        self.middle = residual_stack(widths[-1], widths[-1], depth if middle_depth is None else middle_depth)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode.

        Args:
            x: (B, 3, H, W), in [-1, 1]; H and W multiples of `downsample`.

        Returns:
            (B, H / downsample * W / downsample, dim), row by row.

        Raises:
            ValueError: another shape.
        """
        step = self.downsample
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % step or x.shape[3] % step:
            raise ValueError(
                f"MaskGITEncoder expects images (B, 3, H, W) with sides that are multiples of {step}, "
                f"got {tuple(x.shape)}; pad them"
            )
        x = self.conv_in((x.to(self.conv_in.weight.dtype) + 1) * 0.5)
        for number, level in enumerate(self.levels):
            x = level(x)
            if number < len(self.levels) - 1:
                x = F.avg_pool2d(x, 2)
        x = self.conv_out(activate(self.norm_out, self.middle(x)))
        return rearrange(x, "b c h w -> b (h w) c")
