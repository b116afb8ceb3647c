"""The decoder of ReTok: grid queries read a prefix of the code, convolutions turn the grid into pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.attention import embedding, init_weights
from encoders.layers.cross_attention import QueryTransformer
from encoders.layers.maskgit import activate, group_norm
from encoders.layers.vqgan import AdaptiveGroupNorm, DepthToSpace, check_widths, residual_blocks

__all__ = ["ReTokDecoder"]


class ConvDecoder(nn.Module):
    """Features (B, D, h, w) to images: an attention-free VQGAN decoder, restyled by its input before every level.

    Args:
        dim: D.
        channels, multipliers: width of each level, finest first; every level but the finest doubles the resolution.
        depth: residual blocks a level.
    """

    def __init__(self, *, dim: int, channels: int, multipliers: Sequence[int], depth: int) -> None:
        super().__init__()
        widths = check_widths(channels, multipliers)[::-1]
        self.conv_in = nn.Conv2d(dim, widths[0], 3, padding=1)
        self.middle = residual_blocks(widths[0], widths[0], 2)
        incoming = [widths[0], *widths[:-1]]
        self.styles = nn.ModuleList(AdaptiveGroupNorm(width, dim) for width in incoming)
        self.levels = nn.ModuleList(
            residual_blocks(before, after, depth) for before, after in zip(incoming, widths, strict=True)
        )
        self.upsamples = nn.ModuleList(DepthToSpace(width) for width in widths[:-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        features = features.contiguous()  # in channels-last, GroupNorm loses digits on maps that hardly vary
        x = self.middle(self.conv_in(features))
        for number, (style, level) in enumerate(zip(self.styles, self.levels, strict=True)):
            if number > 0:
                x = self.upsamples[number - 1](x)
            x = level(style(x, features))
        return self.conv_out(activate(self.norm_out, x))


class ReTokDecoder(nn.Module):
    """A prefix of a 1D code to an image (arXiv 2601.01535).

    The queries, one for each cell of a grid, all start as the first token and differ by position only; the first tokens
    of the code are the memory of their cross-attention.

    Args:
        image_size: side of the square output, pixels.
        dim: width of one latent.
        num_tokens: N.
        padding: M, redundant tokens that may follow the N.
        features: channels of the map between transformer and convolutions.
        channels, multipliers, conv_depth: of the convolutions, as in `encoders.ReTokEncoder`.
        width, depth, heads: of the transformer. ReTok: small 512, 6, 8; base 768, 12, 12.
        distill_depth: block, counted from 1, whose output is projected for semantic alignment; None for none.
        distill_dim: width of the projected features.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        *,
        image_size: int,
        dim: int,
        num_tokens: int,
        padding: int,
        features: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        conv_depth: int = 3,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        distill_depth: int | None = None,
        distill_dim: int = 768,
    ) -> None:
        super().__init__()
        step = 2 ** (len(multipliers) - 1)
        self.image_size, self.side = image_size, image_size // step
        self.dim, self.num_tokens, self.padding = dim, num_tokens, padding
        self.distill_depth, self.distill_dim = distill_depth, distill_dim
        if image_size % step or self.side < 2:
            raise ValueError(f"image_size must be a multiple of {step} and at least {2 * step}, got {image_size}")
        if distill_depth is not None and not 1 <= distill_depth <= depth:
            raise ValueError(f"distill_depth counts blocks from 1 to depth={depth}, got {distill_depth}")
        self.proj = nn.Linear(dim, features)
        self.norm_pre = nn.LayerNorm(features)
        self.embedding = nn.Linear(features, width)
        self.position_embedding = embedding(self.side**2, width)
        self.latent_position_embedding = embedding(num_tokens + padding, width)
        self.blocks = QueryTransformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.head = nn.Conv2d(width, features, 3, padding=1)
        self.distill = None if distill_depth is None else projection(width, distill_dim)
        for module in (self.proj, self.embedding, self.blocks, self.head, self.distill):
            if module is not None:
                module.apply(init_weights)
        self.convs = ConvDecoder(dim=features, channels=channels, multipliers=multipliers, depth=conv_depth)
        self.features = {str(number): width for number in range(1, depth + 1)}  # what `watch` is called with

    def forward(
        self, latents: Tensor, lengths: Tensor | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Decode.

        Args:
            latents: (B, n, dim), 1 <= n <= N + M: a prefix of the code.
            lengths: (B,) int64 in [1, n]; later positions of an item are left out, as if it were cut there.
            watch: called with "1", "2", ... and the queries (B, width, side, side) after so many blocks.

        Returns:
            (B, 3, image_size, image_size), meant for [-1, 1] and not clamped.

        Raises:
            ValueError: another shape, or more tokens than there are positions.
        """
        return self.convs(self.spread(latents, lengths, watch))

    def spread(
        self, latents: Tensor, lengths: Tensor | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """The transformer's part of `forward`: -> (B, features, side, side)."""
        most = self.num_tokens + self.padding
        if latents.ndim != 3 or latents.shape[2] != self.dim or not 1 <= latents.shape[1] <= most:
            raise ValueError(f"ReTokDecoder expects latents (B, 1 to {most}, {self.dim}), got {tuple(latents.shape)}")
        latents = latents.to(self.position_embedding.dtype)
        count = latents.shape[1]
        keep = None
        if lengths is not None:
            keep = torch.arange(count, device=latents.device) < lengths[:, None]
            latents = torch.where(keep[..., None], latents, 0)  # what is left out may hold anything, NaN too
        memory = self.embedding(self.norm_pre(self.proj(latents)))

        def grid_after(number: int, rows: Tensor) -> None:
            assert watch is not None
            watch(str(number), self._grid(rows))

        out = self.blocks(
            memory[:, :1].expand(-1, self.side**2, -1),
            memory,
            position=self.position_embedding,
            memory_position=self.latent_position_embedding[:count],
            mask=keep,
            watch=None if watch is None else grid_after,
        )
        return self.head(self._grid(self.norm_post(out)))

    def semantic(self, features: Tensor) -> Tensor:
        """Project the queries after block `distill_depth` for alignment: (B, width, h, w) -> (B, distill_dim, h, w).

        Raises:
            ValueError: the decoder was built without `distill_depth`.
        """
        if self.distill is None:
            raise ValueError("this ReTokDecoder has no projection for alignment; set distill_depth")
        return self._grid(self.distill(rearrange(features, "b c h w -> b (h w) c")))

    def _grid(self, rows: Tensor) -> Tensor:
        return rearrange(rows, "b (h w) c -> b c h w", h=self.side)


def projection(width: int, dim: int) -> nn.Sequential:
    """Three layers with SiLU, 4 * width wide inside: (..., width) -> (..., dim)."""
    hidden = 4 * width
    return nn.Sequential(
        nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim)
    )
