"""The decoder of ResTok: queries on a grid read a 1D code by rotary attention, convolutions make pixels of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from decoders.maskgit_vqgan import MaskGITDecoder
from encoders.layers.attention import embedding, init_weights
from encoders.layers.fixed import Fixed
from encoders.layers.levels import LevelLinear, repeat_levels
from encoders.layers.pyramid import check_levels, spread_levels
from encoders.layers.rotary import RotaryBlock, grid_positions, line_positions, rotary_table

__all__ = ["ResTokDecoder"]

Queries = Literal["learned", "sum", "mean"]


class ResTokDecoder(nn.Module):
    """A prefix of a coarse-to-fine 1D code to an image (arXiv 2601.03955).

    Latents that are left out are replaced by a learned one, so that every prefix has the length of the whole code.
    Latents and queries see each other freely. The convolutions run in float32 also under autocast, as in the reference.

    Args:
        image_size, patch_size: pixels; the grid of queries has `image_size / patch_size` cells a side.
        levels: (h, w) grids of latent tokens, coarse to fine, as in the encoder.
        dim: width of one latent.
        width, depth, heads: of the transformer. ResTok: 1024, 24, 16.
        pixels: convolutions from the grid to pixels; the image has `pixels.downsample` pixels for a cell.
        queries: "learned": one token for all cells, told apart by their positions; "sum", "mean": the latents of all
            levels that cover the cell, added up or averaged.
        level_heads: an embedding of latents for each level, instead of one for all.
        feature_token: learn a second query, whose results training aligns with the patches of a vision model.
        theta: of the rotary positions.

    Attributes:
        features: what `watch` is called with, and its width.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    proxy_codes = None

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        levels: Sequence[Sequence[int]],
        dim: int,
        width: int,
        depth: int,
        heads: int,
        pixels: MaskGITDecoder,
        queries: Queries = "learned",
        level_heads: bool = True,
        feature_token: bool = False,
        theta: float = 10000.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if queries not in get_args(Queries):
            raise ValueError(f"queries are one of {', '.join(get_args(Queries))}, got {queries!r}")
        self.image_size, self.patch_size, self.grid = image_size, patch_size, image_size // patch_size
        self.levels = check_levels(levels)
        if queries != "learned":
            check_levels([*self.levels, (self.grid, self.grid)])
        self.scales = tuple(h * w for h, w in self.levels)
        self.num_tokens, self.dim, self.queries = sum(self.scales), dim, queries
        self.latent_mask_token = nn.Parameter(torch.randn(1, dim) * width**-0.5)
        self.latent_embedding = LevelLinear(self.scales, dim, width, shared=not level_heads)
        self.latent_level_embedding = embedding(len(self.scales), width)
        self.mask_token = embedding(1, width) if queries == "learned" else None
        self.feature_mask_token = embedding(1, width) if feature_token else None
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(RotaryBlock(width, heads) for _ in range(depth))
        self.table = Fixed(lambda: self._table(width // heads, theta))
        self.norm_post = nn.LayerNorm(width)
        self.head = nn.Linear(width, pixels.dim)
        self.pixels = pixels
        self.apply(init_weights)
        self.features = {"patches": width} if feature_token else {}

    def forward(
        self, latents: Tensor, lengths: Tensor | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Decode.

        Args:
            latents: (B, n, dim), 1 <= n <= num_tokens: a prefix of the code.
            lengths: (B,) int64 in [1, n]; later positions of an item are left out, as if it were cut there.
            watch: called with "patches" and the results of the feature queries (B, width, h, w), which cost a second
                pass.

        Returns:
            (B, 3, S, S), meant for [-1, 1] and not clamped; S is `pixels.downsample` times the grid's side.

        Raises:
            ValueError: another shape, more tokens than `num_tokens`, or `watch` without `feature_token`.
        """
        return self.render(self.read(latents, lengths, watch))

    def read(
        self, latents: Tensor, lengths: Tensor | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Arguments of `forward` -> what the convolutions read, (B, grid * grid, pixels.dim)."""
        if latents.ndim != 3 or latents.shape[2] != self.dim or not 1 <= latents.shape[1] <= self.num_tokens:
            raise ValueError(
                f"ResTokDecoder expects latents (B, 1 to {self.num_tokens}, {self.dim}), got {tuple(latents.shape)}"
            )
        latents = self.latent_embedding(self._whole(latents.to(self.latent_mask_token.dtype), lengths))
        queries = self._queries(latents)
        if watch is not None:
            if self.feature_mask_token is None:
                raise ValueError("this ResTokDecoder has no feature queries to watch; set feature_token=True")
            queries = torch.cat([queries, self.feature_mask_token.to(queries.dtype).expand_as(queries)])
            latents = latents.repeat(2, 1, 1)
        latents = latents + repeat_levels(self.latent_level_embedding, self.scales)
        tokens = self.norm_pre(torch.cat([latents, queries.to(latents.dtype)], dim=1))
        table, last = self.table(tokens.device), len(self.blocks) - 1
        only_queries = slice(self.num_tokens, None)
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, table, rows=only_queries if number == last else None)
        if watch is not None:
            tokens, features = tokens.chunk(2)
            watch("patches", rearrange(features, "b (h w) c -> b c h w", h=self.grid))
        return self.head(self.norm_post(tokens))

    def render(self, cells: Tensor) -> Tensor:
        """What `read` returns -> images; float32 weights compute in float32 whatever the autocast state."""
        device = cells.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            return self.pixels(cells, (self.grid, self.grid))

    def _whole(self, latents: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, n, dim) -> (B, N, dim), the learned token standing for what is left out.

        While training it always takes part, so that it has a gradient on every process of a distributed run.
        """
        count = latents.shape[1]
        if count == self.num_tokens and lengths is None and not self.training:
            return latents
        latents = F.pad(latents, (0, 0, 0, self.num_tokens - count))
        ends = torch.full((1,), count, device=latents.device) if lengths is None else lengths
        keep = torch.arange(self.num_tokens, device=latents.device) < ends[:, None]
        return torch.where(keep[..., None], latents, self.latent_mask_token)

    def _queries(self, latents: Tensor) -> Tensor:
        """Embedded latents (B, N, width) -> queries (B, grid * grid, width)."""
        if self.mask_token is not None:
            return self.mask_token.expand(len(latents), self.grid**2, -1)
        cells = F.interpolate(spread_levels(latents, self.levels), size=(self.grid, self.grid))
        return rearrange(cells / (len(self.levels) if self.queries == "mean" else 1), "b c h w -> b (h w) c")

    def _table(self, head_dim: int, theta: float) -> Tensor:
        """Rotary table of the latents and, counting on from their number, of the grid."""
        grid = grid_positions(self.grid, self.grid, self.num_tokens)
        return rotary_table(torch.cat([line_positions(self.num_tokens), grid]), head_dim, theta)
