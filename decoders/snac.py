"""SNAC's decoder: DAC's trunk with depthwise convolutions, attention in windows, and noise (arXiv 2410.14411)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decoders.dac import latent_context
from encoders.layers.dilated import DilatedUnits
from encoders.layers.snake import Snake
from encoders.layers.time_conv import TimeConv, TimeUp, blank_steps
from encoders.layers.window_attention import WindowAttention

__all__ = ["SNACDecoder"]


class SNACDecoder(nn.Module):
    """A first convolution, attention, stages that halve the width and raise the rate, a last convolution, tanh.

    Args:
        dim: D of the latents.
        channels: of the sound.
        width: channels behind the first convolution, halved by every stage.
        strides: of the stages, in order; their product is `hop_length`.
        window: latents that see each other behind the first convolution; None for no attention.
        depthwise: whether residual units work on each channel by itself, and the first convolution does so before it
            changes the width.
        noise: whether every stage adds noise to what it has upsampled, scaled by what stands there.

    Attributes:
        hop_length: samples of a latent.
        block: latents that come together: N is a multiple, and chunks of a long code start at one.
        context: latents before and behind its own that a sample needs at most.
        noise_rates: steps of noise for each latent, one entry for each stage that adds some.
    """

    context: tuple[int, int] | None

    def __init__(
        self,
        *,
        dim: int = 768,
        channels: int = 1,
        width: int = 1024,
        strides: Sequence[int] = (8, 8, 4, 2),
        window: int | None = None,
        depthwise: bool = True,
        noise: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.channels, self.hop_length = dim, channels, math.prod(strides)
        self.block = window or 1
        self.smooth = TimeConv(dim, kernel=7, depthwise=True) if depthwise else None
        self.stem = TimeConv(dim, width, 1 if depthwise else 7)
        self.attention = WindowAttention(width, window) if window else None
        self.stages = nn.ModuleList(
            NoisyStage(width // 2**level, stride, depthwise, noise) for level, stride in enumerate(strides)
        )
        self.snake = Snake(width // 2 ** len(strides))
        self.head = TimeConv(width // 2 ** len(strides), channels, 7)
        self.noise_rates = tuple(math.prod(strides[: level + 1]) for level in range(len(strides))) if noise else ()
        self.context = self._context()

    def _context(self) -> tuple[int, int]:
        """The furthest of all latents of a window."""
        front = [self.stem] if self.smooth is None else [self.smooth, self.stem]
        if self.attention is None:
            return latent_context((*front, *self.stages, self.head), self.hop_length)
        behind = latent_context((*self.stages, self.head), self.hop_length)
        reached = []
        for place in range(self.block):
            first, last = self.attention.reads(place - behind[0], place + behind[1])
            for layer in reversed(front):
                first, last = layer.reads(first, last)
            reached.append((place - first, last - place))
        return max(before for before, _ in reached), max(after for _, after in reached)

    def forward(self, latents: Tensor, lengths: Tensor | None = None, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Decode.

        Args:
            latents: (B, N, dim), N a multiple of `block`.
            lengths: (B,) int64 real latents of each item, which is decoded as if it stood alone; None for all.
            noise: (B or 1, 1, N * rate) for each of `noise_rates`; None for none.

        Returns:
            (B, channels, N * hop_length) in [-1, 1], meaningful in the first lengths * hop_length samples.

        Raises:
            ValueError: N is no multiple of `block`.
        """
        if latents.shape[1] % self.block:
            raise ValueError(f"SNACDecoder expects blocks of {self.block} latents, got {latents.shape[1]}")
        x = blank_steps(latents, lengths)
        if self.smooth is not None:
            x = self.smooth(x)
        x = blank_steps(self.stem(x), lengths)
        if self.attention is not None:
            x = blank_steps(self.attention(x), lengths)
        for number, stage in enumerate(self.stages):
            x, lengths = stage(x, lengths, None if noise is None else noise[number])
        return self.head(self.snake(x, spare=True)).tanh().mT


class NoisyStage(nn.Module):
    """A transposed convolution to half the width, noise, then three residual units."""

    def __init__(self, width: int, stride: int, depthwise: bool, noise: bool) -> None:
        super().__init__()
        self.snake = Snake(width)
        self.up = TimeUp(width, width // 2, stride)
        self.noise = NoiseBlock(width // 2) if noise else None
        self.units = DilatedUnits(width // 2, depthwise=depthwise)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return self.up.reads(*self.units.reads(first, last))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, W) -> (B, T * stride, W / 2), both with the real steps (B,) of each item.

        Args:
            noise: (B or 1, 1, T * stride), or None for none.
        """
        lengths = None if lengths is None else self.up.length(lengths)
        x = blank_steps(self.up(self.snake(x, spare=True)), lengths)
        if self.noise is not None and noise is not None:
            x = self.noise(x, noise)
        return self.units(x, lengths, spare=True), lengths


class NoiseBlock(nn.Module):
    """x + noise * W x: noise that is shared by all channels, as loud in each as the network wants it.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = TimeConv(width, bias=False)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x (B, T, width) and noise (B or 1, 1, T) -> (B, T, width)."""
        return torch.addcmul(x, noise.mT, self.linear(x))
