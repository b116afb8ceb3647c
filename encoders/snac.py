"""SNAC's encoder: DAC's trunk with depthwise convolutions and attention in windows (arXiv 2410.14411)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from encoders.dac import DownStage, sample_context, whole_hops
from encoders.layers.time_conv import TimeConv, blank_steps
from encoders.layers.window_attention import WindowAttention

__all__ = ["SNACEncoder"]


class SNACEncoder(nn.Module):
    """A first convolution, stages that halve the rate or more and double the width, attention, a last convolution.

    Args:
        dim: D of the latents; None for the width of the last stage, width * 2^stages. Others cost a projection.
        channels: of the sound.
        width: channels of the first convolution.
        strides: of the stages, in order; their product is `hop_length`.
        window: latents that see each other in front of the last convolution; None for no attention.
        depthwise: whether residual units and the last convolution work on each channel by itself.

    Attributes:
        hop_length: samples of a latent.
        block: latents that come together: T must be whole blocks of hops, and chunks of a long sound start at one.
        context: samples before and behind its own hop that a latent reads at most.
    """

    context: tuple[int, int] | None

    def __init__(
        self,
        *,
        dim: int | None = None,
        channels: int = 1,
        width: int = 48,
        strides: Sequence[int] = (2, 4, 8, 8),
        window: int | None = None,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        widest = width * 2 ** len(strides)
        self.dim, self.channels, self.hop_length = dim or widest, channels, math.prod(strides)
        self.block = window or 1
        self.stem = TimeConv(channels, width, 7)
        self.stages = nn.ModuleList(
            DownStage(width * 2**level, stride, depthwise) for level, stride in enumerate(strides)
        )
        self.attention = WindowAttention(widest, window) if window else None
        self.head = TimeConv(widest, kernel=7, depthwise=depthwise)
        self.project = TimeConv(widest, self.dim) if self.dim != widest else None
        self.context = self._context()

    def _context(self) -> tuple[int, int]:
        """The furthest of all latents of a window."""
        layers = (self.stem, *self.stages)
        if self.attention is None:
            return sample_context((*layers, self.head), self.hop_length)
        reached = []
        for place in range(self.block):
            first, last = self.attention.reads(*self.head.reads(place, place))
            for layer in reversed(layers):
                first, last = layer.reads(first, last)
            start = place * self.hop_length
            reached.append((start - first, last - start - self.hop_length + 1))
        return max(before for before, _ in reached), max(after for _, after in reached)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, channels, T) in [-1, 1], T a multiple of `hop_length * block`.
            lengths: (B,) int64 real samples of each item, which is encoded as if it stood alone, filled up with zeros
                to whole blocks; None for all.

        Returns:
            (B, T / hop_length, dim).

        Raises:
            ValueError: another shape.
        """
        lengths = whole_hops(x, lengths, self.channels, self.hop_length * self.block, type(self).__name__)
        x = blank_steps(self.stem(x.mT), lengths)
        for stage in self.stages:
            x, lengths = stage(x, lengths)
        if self.attention is not None:
            x = blank_steps(self.attention(x), lengths)
        x = self.head(x)
        return x if self.project is None else self.project(x)
