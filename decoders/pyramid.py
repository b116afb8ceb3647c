"""A decoder for coarse-to-fine 1D codes, any prefix of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from decoders.conv import PatchConvDecoder
from encoders.layers.attention import Block, start_as_identity
from encoders.layers.pyramid import check_levels, spread_levels
from encoders.layers.residual import ResidualConv

__all__ = ["PyramidDecoder"]


class PyramidDecoder(nn.Module):
    """N tokens to an image: a transformer over the tokens present, their sum over the cells they cover, convolutions.

    The counterpart of `encoders.PyramidEncoder`. A token that is absent adds nothing, so a prefix gives the image at
    the detail reached so far.

    Args:
        image_size: side of the square output, pixels.
        levels: (h, w) grids of tokens, coarse to fine, as in the encoder.
        dim: width of one latent.
        width, depth, heads: of the transformer.
        conv_depth: residual convolutions at the finest token grid, `width` channels.
        pixels: `decoders.PatchConvDecoder` from the upsampled grid to pixels; its `downsample` fixes that grid.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    proxy_codes = None

    def __init__(
        self,
        *,
        image_size: int,
        levels: Sequence[Sequence[int]],
        dim: int,
        pixels: PatchConvDecoder,
        width: int = 192,
        depth: int = 3,
        heads: int = 6,
        conv_depth: int = 2,
    ) -> None:
        super().__init__()
        self.levels = check_levels(levels)
        height, across = self.levels[-1]
        side = image_size // pixels.downsample
        if height != across or side % height or side * pixels.downsample != image_size:
            raise ValueError(
                f"{image_size} pixels at {pixels.downsample} a cell do not fit the level {self.levels[-1]}"
            )
        ratio = side // height
        self.image_size, self.dim, self.side = image_size, dim, side
        self.num_tokens = sum(h * w for h, w in self.levels)
        self.embedding = nn.Linear(dim, width)
        self.position = nn.Parameter(torch.randn(self.num_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(start_as_identity(Block(width, heads)) for _ in range(depth))
        self.grid_position = nn.Parameter(torch.randn(width, height, across) * 0.02)
        self.convs = nn.Sequential(*(ResidualConv(width) for _ in range(conv_depth)))
        widen = nn.Conv2d(width, pixels.dim * ratio**2, 1)
        self.upsample = nn.Sequential(widen, nn.PixelShuffle(ratio))
        self.pixels = pixels
        with torch.no_grad():
            self.embedding.weight.mul_(0.1).add_(torch.eye(width, dim))
            repeated = torch.eye(pixels.dim, width).repeat_interleave(ratio**2, dim=0)
            widen.weight.mul_(0.1).add_(repeated[..., None, None])
        for bias in (self.embedding.bias, widen.get_parameter("bias")):
            nn.init.zeros_(bias)
        self.features = {"grid": width}  # what `watch` is called with

    def forward(
        self, latents: Tensor, lengths: Tensor | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Decode.

        Args:
            latents: (B, n, D), 1 <= n <= N: a prefix of the code.
            lengths: (B,) int64 in [1, n]; later positions of an item are left out, as if it were cut there.
            watch: called with "grid" and the features (B, width, h, w) that the tokens add up to.

        Returns:
            (B, 3, S, S), meant for [-1, 1] and not clamped.

        Raises:
            ValueError: another shape, or more tokens than N.
        """
        if latents.ndim != 3 or latents.shape[2] != self.dim or not 1 <= latents.shape[1] <= self.num_tokens:
            raise ValueError(
                f"PyramidDecoder expects latents (B, 1 to {self.num_tokens}, {self.dim}), got {tuple(latents.shape)}"
            )
        count = latents.shape[1]
        keep = None if lengths is None else torch.arange(count, device=latents.device) < lengths[:, None]
        if keep is not None:
            latents = torch.where(keep[..., None], latents, 0)  # what is left out may hold anything, NaN too
        tokens = self.embedding(latents) + self.position[:count]
        mask = None if keep is None else keep[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        if keep is not None:
            tokens = torch.where(keep[..., None], tokens, 0)
        features = self.convs(spread_levels(tokens, self.levels) + self.grid_position)
        if watch is not None:
            watch("grid", features)
        return self.pixels.render(self.upsample(features))
