"""SEANet's decoder: latents to sound by transposed convolutions (EnCodec, SpeechTokenizer, Mimi)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from encoders.layers.conv1d import Edges, keep_scale
from encoders.layers.lstm import SLSTM
from encoders.layers.seanet import Activation, SEANetBlock, SEANetOptions
from encoders.layers.streaming import Stream

__all__ = ["SEANetDecoder"]


class SEANetDecoder(nn.Module):
    """The mirror image of `encoders.SEANetEncoder` (arXiv 2210.13438, Sec. 3.1).

    Args:
        dim: D of the latents.
        channels: of the sound.
        width: channels in front of the last convolution; every stage halves them on the way there.
        strides: of the stages, in order; their product is `hop_length`.
        depth: residual blocks behind each stride.
        kernel: of the first convolution.
        last_kernel, residual_kernel, dilation_base, compress, causal, edges, conv_shortcut, lstm, norm, activation: as
            in the encoder.

    Attributes:
        hop_length: samples of a latent.
        context: latents before and behind its own that a sample needs; None if unbounded.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        channels: int = 1,
        width: int = 32,
        strides: Sequence[int] = (8, 5, 4, 2),
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
        norm: bool = False,
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        options = SEANetOptions(
            depth, residual_kernel, dilation_base, compress, causal, edges, conv_shortcut, norm, activation
        )
        self.dim, self.channels, self.hop_length = dim, channels, math.prod(strides)
        self.causal = causal and not norm
        widths = [width * 2 ** (len(strides) - level) for level in range(len(strides))]
        self.stem = options.conv(dim, widths[0], kernel)
        self.lstm = SLSTM(widths[0], lstm) if lstm else None
        self.stages = nn.ModuleList(
            DecoderStage(before, stride, options) for before, stride in zip(widths, strides, strict=True)
        )
        self.activation = options.activate(width)
        self.head = options.conv(width, channels, last_kernel)
        self.apply(keep_scale)

    @property
    def context(self) -> tuple[int, int] | None:
        """See the class."""
        if self.lstm is not None or self.head.norm is not None:
            return None
        rate = self.hop_length
        before, after = self.stem.before * rate, self.stem.after * rate
        for stage in self._ordered():
            reach = stage.up.reach
            before, after, rate = before + reach[0] * rate, after + reach[1] * rate, rate // stage.up.step
            for block in stage.ordered():
                before, after = before + rate * block.conv1.before, after + rate * block.conv1.after
        before, after = before + self.head.before, after + self.head.after
        return -(-before // self.hop_length), -(-after // self.hop_length)

    def forward(self, latents: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Decode.

        Args:
            latents: (B, N, dim).
            lengths: (B,) int64 real latents of each item, which is decoded as if it stood alone; None for all.
            stream: continues a sound, if causal.

        Returns:
            (B, channels, N * hop_length), meaningful in the first lengths * hop_length samples.
        """
        x = self.stem(latents.mT, lengths, stream)
        if self.lstm is not None:
            x = self.lstm(x, lengths, stream)
        for stage in self._ordered():
            x = stage(x, lengths, stream)
            lengths = None if lengths is None else lengths * stage.up.step
        return self.head(self.activation(x), lengths, stream)

    def _ordered(self) -> list[DecoderStage]:
        return [cast(DecoderStage, stage) for stage in self.stages]


class DecoderStage(nn.Module):
    """A transposed convolution to half the channels, then residual blocks."""

    def __init__(self, channels: int, stride: int, options: SEANetOptions) -> None:
        super().__init__()
        self.activation = options.activate(channels)
        self.up = options.transposed(channels, channels // 2, stride)
        self.blocks = options.blocks(channels // 2)

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """(B, C, T) -> (B, C / 2, T * stride)."""
        x = self.up(self.activation(x), lengths, stream)
        lengths = None if lengths is None else lengths * self.up.step
        for block in self.blocks:
            x = block(x, lengths, stream)
        return x

    def ordered(self) -> list[SEANetBlock]:
        """The residual blocks."""
        return [cast(SEANetBlock, block) for block in self.blocks]
