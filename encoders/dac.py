"""DAC's encoder: sound to latents by dilated residual units and strided convolutions (arXiv 2306.06546)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from encoders.layers.dilated import DilatedUnits
from encoders.layers.snake import Snake
from encoders.layers.time_conv import TimeConv, TimeDown, blank_steps

__all__ = ["DACEncoder"]


class DACEncoder(nn.Module):
    """A first convolution, stages that halve the rate or more and double the width, and a last convolution.

    Every convolution pads with zeros on both sides: not causal, but local.

    Args:
        dim: D of the latents; None for the width of the last stage.
        channels: of the sound.
        width: channels of the first convolution.
        strides: of the stages, in order; their product is `hop_length`.

    Attributes:
        hop_length: samples of a latent.
        context: samples before and behind its own hop that a latent reads.
    """

    context: tuple[int, int] | None

    def __init__(
        self, *, dim: int | None = None, channels: int = 1, width: int = 64, strides: Sequence[int] = (2, 4, 5, 8)
    ) -> None:
        super().__init__()
        widest = width * 2 ** len(strides)
        self.dim, self.channels, self.hop_length = dim or widest, channels, math.prod(strides)
        self.stem = TimeConv(channels, width, 7)
        self.stages = nn.ModuleList(DownStage(width * 2**level, stride) for level, stride in enumerate(strides))
        self.snake = Snake(widest)
        self.head = TimeConv(widest, self.dim, 3)
        self.context = sample_context((self.stem, *self.stages, self.head), self.hop_length)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, channels, T) in [-1, 1], T a multiple of `hop_length`.
            lengths: (B,) int64 real samples of each item, which is encoded as if it stood alone, filled up with zeros
                to whole hops; None for all.

        Returns:
            (B, T / hop_length, dim), meaningful in the first ceil(lengths / hop_length) places.

        Raises:
            ValueError: another shape.
        """
        lengths = whole_hops(x, lengths, self.channels, self.hop_length, type(self).__name__)
        x = blank_steps(self.stem(x.mT), lengths)
        for stage in self.stages:
            x, lengths = stage(x, lengths)
        return self.head(self.snake(x, spare=True))


class DownStage(nn.Module):
    """Three residual units, then a strided convolution to twice the width."""

    def __init__(self, width: int, stride: int, depthwise: bool = False) -> None:
        super().__init__()
        self.units = DilatedUnits(width, depthwise=depthwise)
        self.snake = Snake(width)
        self.down = TimeDown(width, 2 * width, stride)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return self.units.reads(*self.down.reads(first, last))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, T, W) -> (B, T / stride, 2 W), both with the real steps (B,) of each item, in whole strides."""
        x = self.down(self.snake(self.units(x, lengths, spare=True), spare=True))
        lengths = None if lengths is None else lengths // self.down.stride
        return blank_steps(x, lengths), lengths


def sample_context(layers: Iterable[Any], hop_length: int) -> tuple[int, int]:
    """Samples before and behind its own hop that a latent reads through these layers."""
    first = last = 0
    for layer in reversed(list(layers)):
        first, last = layer.reads(first, last)
    return -first, last - (hop_length - 1)


def whole_hops(x: Tensor, lengths: Tensor | None, channels: int, hop_length: int, name: str) -> Tensor | None:
    """`lengths` in samples rounded up to whole hops, after a check that x is (B, channels, T) of whole hops."""
    if x.ndim != 3 or x.shape[1] != channels or x.shape[2] % hop_length or not x.shape[2]:
        raise ValueError(
            f"{name} expects (B, {channels}, T), T a multiple of {hop_length}, got {tuple(x.shape)}; pad it with zeros"
        )
    return None if lengths is None else -(-lengths // hop_length) * hop_length
