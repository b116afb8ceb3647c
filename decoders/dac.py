"""DAC's decoder: latents to sound by transposed convolutions and dilated residual units (arXiv 2306.06546)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.dilated import DilatedUnits
from encoders.layers.snake import Snake
from encoders.layers.time_conv import TimeConv, TimeUp, blank_steps

__all__ = ["DACDecoder"]


class DACDecoder(nn.Module):
    """A first convolution, stages that halve the width and raise the rate, a last convolution, tanh.

    The published models leave out the last step of every transposed convolution of an odd stride (`short`), so that the
    sound of N latents is `lost` samples short of N * hop_length: 8 at 16 and 24 kHz, half a millisecond at most. The
    last sample is repeated in their place.

    Args:
        dim: D of the latents.
        channels: of the sound.
        width: channels of the first convolution, halved by every stage.
        strides: of the stages, in order; their product is `hop_length`.
        short: see above; of no consequence without odd strides.

    Attributes:
        hop_length: samples of a latent.
        lost: samples at the end that are not computed.
        context: latents before and behind its own that a sample needs.
    """

    context: tuple[int, int] | None

    def __init__(
        self,
        *,
        dim: int = 1024,
        channels: int = 1,
        width: int = 1536,
        strides: Sequence[int] = (8, 5, 4, 2),
        short: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.channels, self.hop_length = dim, channels, math.prod(strides)
        self.stem = TimeConv(dim, width, 7)
        self.stages = nn.ModuleList(UpStage(width // 2**level, stride, short) for level, stride in enumerate(strides))
        self.snake = Snake(width // 2 ** len(strides))
        self.head = TimeConv(width // 2 ** len(strides), channels, 7)
        self.lost = 0
        for stride in strides:
            self.lost = self.lost * stride + (stride % 2 if short else 0)
        self.context = latent_context((self.stem, *self.stages, self.head), self.hop_length)

    def forward(self, latents: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            latents: (B, N, dim).
            lengths: (B,) int64 real latents of each item, which is decoded as if it stood alone; None for all.

        Returns:
            (B, channels, N * hop_length) in [-1, 1], meaningful in the first lengths * hop_length samples.
        """
        x = blank_steps(self.stem(blank_steps(latents, lengths)), lengths)
        for stage in self.stages:
            x, lengths = stage(x, lengths)
        sound = self.head(self.snake(x, spare=True)).tanh().mT
        return self._complete(sound, lengths) if self.lost else sound

    def _complete(self, sound: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, C, T) with the last of T, or of `lengths` (B,), samples repeated `lost` times or more."""
        sound = F.pad(sound, (0, self.lost), mode="replicate")
        if lengths is None:
            return sound
        places = torch.arange(sound.shape[-1], device=sound.device).minimum(lengths[:, None] - 1)
        return sound.gather(-1, places[:, None].expand_as(sound))


class UpStage(nn.Module):
    """A transposed convolution to half the width, then three residual units."""

    def __init__(self, width: int, stride: int, short: bool) -> None:
        super().__init__()
        self.snake = Snake(width)
        self.up = TimeUp(width, width // 2, stride, short=short)
        self.units = DilatedUnits(width // 2)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return self.up.reads(*self.units.reads(first, last))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, T, W) -> (B, T * stride, W / 2), or a step less, both with the real steps (B,) of each item."""
        lengths = None if lengths is None else self.up.length(lengths)
        return self.units(blank_steps(self.up(self.snake(x, spare=True)), lengths), lengths, spare=True), lengths


def latent_context(layers: Iterable[Any], hop_length: int) -> tuple[int, int]:
    """Latents before and behind its own that the samples of a hop need through these layers."""
    first, last = 0, hop_length - 1
    for layer in reversed(list(layers)):
        first, last = layer.reads(first, last)
    return -first, last
