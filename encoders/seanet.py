"""SEANet's encoder: sound to latents by strided convolutions (EnCodec, SpeechTokenizer, WavTokenizer, Mimi)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from encoders.layers.conv1d import Edges, keep_scale
from encoders.layers.lstm import SLSTM
from encoders.layers.seanet import Activation, SEANetBlock, SEANetOptions
from encoders.layers.streaming import Stream

__all__ = ["SEANetEncoder"]


class SEANetEncoder(nn.Module):
    """Convolutions, an LSTM where asked for, and a last convolution (arXiv 2210.13438, Sec. 3.1).

    Any number of samples T gives ceil(T / hop_length) latents: every convolution completes its last window as `edges`
    says. Causal encoders without `norm` and `bidirectional` stream.

    Args:
        dim: D of the latents.
        channels: of the sound, 1 or 2.
        width: channels of the first convolution; every stage doubles them.
        strides: of the stages, in order; their product is `hop_length`.
        depth: residual blocks in front of each stride.
        kernel: of the first convolution.
        last_kernel: of the last one.
        residual_kernel: of the residual blocks.
        dilation_base: block j of a stage is dilated by dilation_base^j.
        compress: factor by which residual blocks narrow the channels inside.
        causal: whether latents depend on no later sample.
        edges: what stands beyond the signal: "reflect", "constant" (zeros) or "replicate".
        conv_shortcut: whether residual blocks have a convolution of width 1 as shortcut, else none.
        lstm: layers of the LSTM; 0 for none.
        bidirectional: whether the LSTM reads both ways.
        norm: whether every convolution is followed by a group norm over channels and the whole time.
        activation: "elu", or "snake" with a learned frequency for each channel.

    Attributes:
        hop_length: samples of a latent.
        any_length: the sound need not be whole hops.
        context: samples before and behind its own hop that a latent reads; None if unbounded.
    """

    any_length = True

    def __init__(
        self,
        *,
        dim: int = 128,
        channels: int = 1,
        width: int = 32,
        strides: Sequence[int] = (2, 4, 5, 8),
        depth: int = 1,
        kernel: int = 7,
        last_kernel: int = 7,
        residual_kernel: int = 3,
        dilation_base: int = 2,
        compress: int = 2,
        causal: bool = True,
        edges: Edges = "reflect",
        conv_shortcut: bool = True,
        lstm: int = 2,
        bidirectional: bool = False,
        norm: bool = False,
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        options = SEANetOptions(
            depth, residual_kernel, dilation_base, compress, causal, edges, conv_shortcut, norm, activation
        )
        self.dim, self.channels, self.hop_length = dim, channels, math.prod(strides)
        self.causal = causal and not norm and not bidirectional
        self.stem = options.conv(channels, width, kernel)
        self.stages = nn.ModuleList(
            EncoderStage(width * 2**level, stride, options) for level, stride in enumerate(strides)
        )
        width *= 2 ** len(strides)
        self.lstm = SLSTM(width, lstm, bidirectional=bidirectional) if lstm else None
        width = width if self.lstm is None else self.lstm.dim
        self.activation = options.activate(width)
        self.head = options.conv(width, dim, last_kernel)
        self.apply(keep_scale)

    @property
    def context(self) -> tuple[int, int] | None:
        """See the class."""
        if self.lstm is not None or self.head.norm is not None:
            return None
        before, after, rate = *self.stem.reach, 1
        for stage in self._ordered():
            for conv in (*(block.conv1 for block in stage.ordered()), stage.down):
                before, after = before + rate * conv.before, after + rate * conv.after
            rate *= stage.down.step
        return before + rate * self.head.before, after + rate * self.head.after

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, channels, T) in [-1, 1].
            lengths: (B,) int64 real samples of each item, which is encoded as if it stood alone; None for all.
            stream: continues a sound, if causal.

        Returns:
            (B, ceil(T / hop_length), dim), meaningful in the first ceil(lengths / hop_length) places.
        """
        x = self.stem(x, lengths, stream)
        for stage in self._ordered():
            x = stage(x, lengths, stream)
            lengths = None if lengths is None else -(-lengths // stage.down.step)
        if self.lstm is not None:
            x = self.lstm(x, lengths, stream)
        return self.head(self.activation(x), lengths, stream).mT

    def _ordered(self) -> list[EncoderStage]:
        return [cast(EncoderStage, stage) for stage in self.stages]


class EncoderStage(nn.Module):
    """Residual blocks, then a strided convolution to twice the channels."""

    def __init__(self, channels: int, stride: int, options: SEANetOptions) -> None:
        super().__init__()
        self.blocks = options.blocks(channels)
        self.activation = options.activate(channels)
        self.down = options.conv(channels, 2 * channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """(B, C, T) -> (B, 2 C, ceil(T / stride))."""
        for block in self.blocks:
            x = block(x, lengths, stream)
        return self.down(self.activation(x), lengths, stream)

    def ordered(self) -> list[SEANetBlock]:
        """The residual blocks."""
        return [cast(SEANetBlock, block) for block in self.blocks]
