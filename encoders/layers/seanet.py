"""The bricks that SEANet's encoder and decoder share (arXiv 2009.02095, as EnCodec changed it: arXiv 2210.13438)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.channels_last import convolve, lies_last, suits
from encoders.layers.conv1d import Conv1d, Edges, TransposedConv1d
from encoders.layers.snake import Snake
from encoders.layers.streaming import Stream, align

__all__ = ["Activation", "SEANetBlock", "SEANetOptions"]

Activation = Literal["elu", "snake"]


@dataclass(frozen=True, slots=True)
class SEANetOptions:
    """What all blocks of a SEANet have in common; the names are those of `SEANetEncoder`'s arguments."""

    depth: int
    residual_kernel: int
    dilation_base: int
    compress: int
    causal: bool
    edges: Edges
    conv_shortcut: bool
    norm: bool
    activation: Activation

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation is one of {', '.join(get_args(Activation))}, got {self.activation!r}")

    def conv(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> Conv1d:
        """A convolution with these options."""
        return Conv1d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            dilation=dilation,
            causal=self.causal,
            edges=self.edges,
            norm=self.norm,
        )

    def transposed(self, channels_in: int, channels_out: int, stride: int) -> TransposedConv1d:
        """The transposed convolution of a decoder's stage."""
        return TransposedConv1d(
            channels_in, channels_out, 2 * stride, stride=stride, causal=self.causal, norm=self.norm
        )

    def activate(self, channels: int, *, inplace: bool = True) -> nn.Module:
        """The activation in front of a convolution."""
        return ChannelSnake(channels) if self.activation == "snake" else nn.ELU(inplace=inplace)

    def blocks(self, channels: int) -> nn.ModuleList:
        """The residual blocks of one stage."""
        return nn.ModuleList(SEANetBlock(channels, self.dilation_base**level, self) for level in range(self.depth))


class ChannelSnake(Snake):
    """`Snake` with channels before time."""

    def forward(self, x: Tensor, *, spare: bool = False) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return super().forward(x.mT, spare=spare).mT


class SEANetBlock(nn.Module):
    """Two activated convolutions, a dilated one and one of width 1, beside a shortcut.

    Args:
        channels: C, divided by `options.compress` between the two.
        dilation: of the first convolution.
        options: of the network.
    """

    def __init__(self, channels: int, dilation: int, options: SEANetOptions) -> None:
        super().__init__()
        hidden = channels // options.compress
        self.activation1 = options.activate(channels, inplace=False)
        self.conv1 = options.conv(channels, hidden, options.residual_kernel, dilation=dilation)
        self.activation2 = options.activate(hidden)
        self.conv2 = options.conv(hidden, channels, 1)
        self.shortcut = options.conv(channels, channels, 1) if options.conv_shortcut else None
        self.spare = options.conv_shortcut and not options.norm and options.activation == "elu"

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """(B, C, T) -> (B, C, T); fewer steps from a stream that has just begun. Without gradients x is overwritten."""
        if self.spare and stream is None and lies_last(x) and suits(x, self.conv1.weight):
            return self._sparing(x, lengths)
        hidden = self.conv1(self.activation1(x), lengths, stream)
        hidden = self.conv2(self.activation2(hidden), lengths, stream)
        skip = x if self.shortcut is None else self.shortcut(x, lengths, stream)
        return hidden + (skip if stream is None else align(self, stream, hidden, skip))

    def _sparing(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The same with two new tensors in place of six: allocating them takes longer than computing what they hold."""
        assert self.shortcut is not None and self.shortcut.bias is not None and self.conv2.bias is not None
        y = convolve(x, self.shortcut.weight, self.shortcut.bias + self.conv2.bias)
        hidden = F.elu_(self.conv1(F.elu_(x), lengths)).mT.flatten(0, 1)
        y.mT.flatten(0, 1).addmm_(hidden, self.conv2.weight[..., 0].T)
        return y
