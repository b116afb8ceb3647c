"""The encoder of ReTok: convolutions, then pooled queries and redundant copies of them (arXiv 2601.01535)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import embedding, init_weights
from encoders.layers.cross_attention import QueryTransformer
from encoders.layers.maskgit import activate, group_norm
from encoders.layers.vqgan import Downsample, check_widths, residual_blocks

__all__ = ["ReTokEncoder"]


class ConvEncoder(nn.Module):
    """Images (B, 3, H, W) to features (B, D, h, w): an attention-free VQGAN encoder.

    Args:
        dim: D.
        channels, multipliers: width of each level; every level but the last halves the resolution.
        depth: residual blocks a level.
    """

    def __init__(self, *, dim: int, channels: int, multipliers: Sequence[int], depth: int) -> None:
        super().__init__()
        widths = check_widths(channels, multipliers)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.levels = nn.ModuleList(
            residual_blocks(before, after, depth) for before, after in pairwise([channels, *widths])
        )
        self.downsamples = nn.ModuleList(Downsample(width) for width in widths[:-1])
        self.middle = residual_blocks(widths[-1], widths[-1], 2)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # in channels-last, GroupNorm loses digits on maps that hardly vary
        x = self.levels[0](self.conv_in(x))
        for downsample, level in zip(self.downsamples, self.levels[1:], strict=True):
            x = level(downsample(x))
        return self.conv_out(activate(self.norm_out, self.middle(x)))


class ReTokEncoder(nn.Module):
    """Image to a coarse-to-fine 1D code: queries read the feature map of a convolutional network.

    Queries do not start as learned constants, but as averages of the feature map over growing grids. Copies of the last
    ones follow them, the redundant tokens, which differ from their originals by position only.

    Args:
        image_size: side of the square input, pixels.
        dim: width of one output latent; twice the latent width in front of a `KL` bottleneck.
        num_tokens: N, a power of two; the grids are 1 x 1, 1 x 1, 1 x 2, 2 x 2, 2 x 4, ...
        padding: M, redundant tokens behind the N, copies of the last M queries; at most N.
        features: channels of the feature map.
        channels, multipliers, conv_depth: of the convolutions: width of the finest level, that of each level over it,
            and residual blocks a level. Every level but the last halves the resolution.
        width, depth, heads: of the transformer. ReTok: 512, 6, 8.

    Attributes:
        side: of the feature map.
        levels: (h, w) grids of queries, coarse to fine.

    Raises:
        ValueError: sizes that do not divide each other.
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
        conv_depth: int = 2,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.convs = ConvEncoder(dim=features, channels=channels, multipliers=multipliers, depth=conv_depth)
        step = 2 ** (len(multipliers) - 1)
        self.image_size, self.side = image_size, image_size // step
        self.num_tokens, self.padding, self.dim = num_tokens, padding, dim
        self.levels = query_levels(num_tokens)
        if image_size % step or self.side % self.levels[-1][1]:
            raise ValueError(
                f"{image_size} pixels at {step} a cell are no map that the grids of {num_tokens} tokens divide, "
                f"the finest being {self.levels[-1]}; change image_size, multipliers or num_tokens"
            )
        if not 0 <= padding <= num_tokens:
            raise ValueError(f"padding copies 0 to num_tokens={num_tokens} queries, got {padding}")
        self.norm_pre = nn.LayerNorm(features)
        self.embedding = nn.Linear(features, width)
        self.query_proj = nn.Linear(width, width)
        self.position_embedding = embedding(self.side**2, width)
        self.latent_position_embedding = embedding(num_tokens + padding, width)
        self.blocks = QueryTransformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.head = nn.Linear(width, features)
        self.proj = nn.Linear(features, dim)
        for module in (self.embedding, self.query_proj, self.blocks, self.head, self.proj):
            module.apply(init_weights)

    def forward(self, x: Tensor, redundant: bool = False) -> Tensor:
        """Encode.

        Args:
            x: (B, 3, image_size, image_size), in [-1, 1].
            redundant: return the M redundant latents too. They are there, and seen by the others, either way.

        Returns:
            (B, N, dim), or (B, N + M, dim).

        Raises:
            ValueError: another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"ReTokEncoder expects images (B, 3, {self.image_size}, {self.image_size}), got {tuple(x.shape)}; "
                "resize or crop them"
            )
        features = rearrange(self.convs(x.to(self.position_embedding.dtype)), "b c h w -> b (h w) c")
        memory = self.embedding(self.norm_pre(features))
        queries = self.query_proj(self._pool(memory))
        queries = torch.cat([queries, queries[:, self.num_tokens - self.padding :]], dim=1)
        out = self.blocks(
            queries,
            memory,
            position=self.latent_position_embedding,
            memory_position=self.position_embedding,
            rows=None if redundant else slice(self.num_tokens),
        )
        return self.proj(self.head(self.norm_post(out)))

    def _pool(self, memory: Tensor) -> Tensor:
        """Memory (B, h * w, W) -> its averages over the cells of every level (B, N, W)."""
        grid = rearrange(memory, "b (h w) c -> b c h w", h=self.side)
        pooled = [F.avg_pool2d(grid, (self.side // h, self.side // w)) for h, w in self.levels]
        return torch.cat([rearrange(level, "b c h w -> b (h w) c") for level in pooled], dim=1)


def query_levels(num_tokens: int) -> tuple[tuple[int, int], ...]:
    """Grids (h, w) of 1, 1, 2, 4, ... cells that make N together: the wider side doubles first.

    Raises:
        ValueError: N is no power of two.
    """
    powers = num_tokens.bit_length() - 1
    if num_tokens != 2**powers:
        raise ValueError(f"num_tokens is a power of two, got {num_tokens}")
    return ((1, 1), *((2 ** (power // 2), 2 ** (power - power // 2)) for power in range(powers)))
