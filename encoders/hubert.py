"""HuBERT: features of speech by a convolutional front end and a transformer (arXiv 2106.07447)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.masked import MaskedGroupNorm, past
from encoders.layers.post_norm import PostNormBlock

__all__ = ["HuBERTEncoder"]

Count = TypeVar("Count", int, Tensor)


class HuBERTEncoder(nn.Module):
    """Sound at 16 kHz to one feature per 20 ms, as HuBERT-base computes it, cut after any number of blocks.

    Convolutions without padding, of which the first is normed over time; a convolutional position embedding; blocks
    with norms behind. The sound should have mean 0 and variance 1. Only whole windows count: T samples make
    `count(T)` = (T - 400) // 320 + 1 features; shorter sounds are extended by zeros to one window.

    In a padded batch nothing that stands behind an item's end has an effect on it. (`transformers` lets it into the
    norm of the first convolution: `contextual(features(x), lengths)` does the same.)

    Args:
        dim: D of the features.
        depth: blocks.
        heads: attention heads.
        hidden: width inside the MLPs.
        widths: channels of the convolutions.
        kernels: samples or steps that each reads.
        strides: of each.
        position_kernel: steps that the position embedding reads.
        position_groups: its groups of channels.
        mask_share: share of features that training replaces by a learned vector, in spans of `mask_span`; 0 for none
            and no such vector.
        mask_span: features in a span.
        eps: of all layer norms.

    Attributes:
        hop_length: samples from one feature to the next.
        window: samples that one feature's convolutions read.
        context: None; attention, and the norm of the first convolution, reach everywhere.
        any_length: sounds need not be whole hops.

    Raises:
        ValueError: as many widths, kernels and strides are needed; or `mask_share` is no share.
    """

    sample_rate = 16000
    channels = 1
    context: tuple[int, int] | None = None
    any_length = True

    def __init__(
        self,
        *,
        dim: int = 768,
        depth: int = 9,
        heads: int = 12,
        hidden: int = 3072,
        widths: Sequence[int] = (512,) * 7,
        kernels: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        position_kernel: int = 128,
        position_groups: int = 16,
        mask_share: float = 0.0,
        mask_span: int = 10,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if not len(widths) == len(kernels) == len(strides) > 0:
            raise ValueError(
                "each convolution needs a width, a kernel and a stride, "
                f"got {list(widths)}, {list(kernels)}, {list(strides)}"
            )
        if not 0 <= mask_share < 1 or mask_span < 1:
            raise ValueError(f"mask_share is in [0, 1) and mask_span at least 1, got {mask_share} and {mask_span}")
        self.dim = dim
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.hop_length = math.prod(strides)
        self.window = 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            self.window = (self.window - 1) * stride + kernel
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride=stride, bias=False)
            for (before, after), kernel, stride in zip(pairwise([1, *widths]), kernels, strides, strict=True)
        )
        self.first_norm = MaskedGroupNorm(widths[0], widths[0])
        self.norm = nn.LayerNorm(widths[-1], eps=eps)
        self.project = nn.Linear(widths[-1], dim)
        self.mask_share, self.mask_span = mask_share, mask_span
        self.mask_vector = nn.Parameter(torch.rand(dim)) if mask_share else None
        self.positions = nn.Conv1d(dim, dim, position_kernel, padding=position_kernel // 2, groups=position_groups)
        self.blocks_norm = nn.LayerNorm(dim, eps=eps)
        self.blocks = nn.ModuleList(PostNormBlock(dim, heads, hidden, eps) for _ in range(depth))

    def count(self, samples: Count) -> Count:
        """Features of a sound: whole windows, but at least one."""
        hops = (samples - self.window) // self.hop_length
        return (hops.clamp_min(0) if isinstance(hops, Tensor) else max(hops, 0)) + 1

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, 1, T), of mean 0 and variance 1.
            lengths: (B,) int64 real samples, None for all; zeros behind them.

        Returns:
            (B, count(T), dim); whatever stands past an item's end is of no use.
        """
        return self.contextual(self.features(x, lengths), lengths)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The convolutional front end: (B, 1, T) -> (B, count(T), dim)."""
        x = F.pad(x, (0, max(0, self.window - x.shape[-1])))
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if number == 0:
                steps = None
                if lengths is not None:
                    steps = (lengths.clamp_min(self.window) - self.kernels[0]) // self.strides[0] + 1
                x = self.first_norm(x, steps)
            x = F.gelu(x)
        return self.project(self.norm(rearrange(x, "b w l -> b l w")))

    def contextual(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Position embedding and blocks.

        Args:
            x: (B, L, dim) of `features`.
            lengths: (B,) int64 real samples, None for all.

        Returns:
            (B, L, dim).
        """
        if self.training and self.mask_vector is not None:
            x = torch.where(self._covered(x), self.mask_vector.to(x.dtype), x)
        mask = None
        if lengths is not None:
            padding = past(self.count(lengths), x.shape[1])
            x = x.masked_fill(padding[..., None], 0)
            mask = ~padding[:, None, None]
        places = F.gelu(self.positions(rearrange(x, "b l d -> b d l"))[..., : x.shape[1]])
        x = self.blocks_norm(x + rearrange(places, "b d l -> b l d"))
        for block in self.blocks:
            x = block(x, mask)
        return x

    def _covered(self, x: Tensor) -> Tensor:
        """(B, L, 1) bool: spans that begin anywhere, so many that they cover `mask_share` (less where they overlap)."""
        starts = torch.rand(x.shape[:2], device=x.device) < self.mask_share / self.mask_span
        spans = F.max_pool1d(F.pad(starts.float()[:, None], (self.mask_span - 1, 0)), self.mask_span, stride=1)
        return (spans > 0)[:, 0, :, None]
