"""The decoder of the MaskGIT-VQGAN (arXiv 2202.04200), also the pixel stage of TiTok and One-D-Piece."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.maskgit import activate, group_norm, residual_stack

__all__ = ["MaskGITDecoder"]


class MaskGITDecoder(nn.Module):
    """A raster of latents to images; the mirror of `encoders.MaskGITEncoder`, with the same arguments.

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
        self.conv_in = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.middle = residual_stack(widths[-1], widths[-1], depth if middle_depth is None else middle_depth)
        coarser = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            residual_stack(before, after, depth) for before, after in zip(coarser, widths, strict=True)
        )
        self.upsamples = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[1:])
        self.norm_out = group_norm(channels * multipliers[0])
        self.conv_out = nn.Conv2d(channels * multipliers[0], 3, 3, padding=1)

    def forward(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode.

        Args:
            latents: (B, h * w, dim), row by row.
            grid: (h, w).

        Returns:
            (B, 3, h * downsample, w * downsample), meant for [-1, 1] and not clamped.

        Raises:
            ValueError: the latents do not fill the grid.
        """
        if latents.ndim != 3 or latents.shape[1:] != (grid[0] * grid[1], self.dim):
            raise ValueError(
                f"MaskGITDecoder expects latents (B, {grid[0] * grid[1]}, {self.dim}) for a grid of {tuple(grid)}, "
                f"got {tuple(latents.shape)}"
            )
        x = rearrange(latents.to(self.conv_in.weight.dtype), "b (h w) c -> b c h w", h=grid[0])
        x = self.middle(self.conv_in(x))
        for number in reversed(range(len(self.levels))):
            x = self.levels[number](x)
            if number > 0:
                x = self.upsamples[number - 1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(activate(self.norm_out, x)) * 2 - 1
