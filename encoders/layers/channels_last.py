"""Convolutions along time for signals (B, C, T) whose channels lie side by side in memory, which CPUs compute fastest.

Tensors keep their axes (B, C, T); only strides differ, and everything elementwise hands them on. Where a signal is small
or narrow the plain functions are as fast, and `worthwhile` says no.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["add_shortcut", "convolve", "is_spread", "spread_first", "transpose_convolve", "worthwhile"]

WIDTH = 16  # channels: as many float32 as a vector register holds
SIZE = 2**17  # numbers of a signal


def worthwhile(x: Tensor, channels: int, size: int) -> bool:
    """Whether a network on x should lay out its signals, of so many channels and numbers at the widest, like this."""
    return x.device.type == "cpu" and channels >= WIDTH and size >= SIZE


def is_spread(x: Tensor) -> bool:
    """Whether the channels of x (B, C, T) lie side by side."""
    return x.device.type == "cpu" and x.shape[1] >= WIDTH and x.stride(1) == 1 and x.stride(2) == x.shape[1]


def spread_first(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A convolution of few channels, x (B, I, T) with weight (O, I, K), as one matrix product; the result is spread."""
    windows = x.unfold(-1, weight.shape[2], stride).transpose(1, 2).flatten(2)
    return F.linear(windows, weight.flatten(1), bias).mT


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, padding: int = 0) -> Tensor:
    """`F.conv1d` of a spread x; the result is spread."""
    if weight.shape[2] == 1 and stride == 1 and not padding:
        return F.linear(x.mT, weight[..., 0], bias).mT
    if weight.numel() > x.numel():  # the weights would be laid out anew at a higher price than the signal
        return _spread(F.conv1d(x.contiguous(), weight, bias, stride, padding, dilation))
    along = (1, stride), (0, padding), (1, dilation)
    return F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, *along).squeeze(2)


def add_shortcut(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y + a convolution of width 1 of x, written into y, which must be spread like x."""
    total = y.mT.flatten(0, 1)
    if bias is not None:
        total += bias
    total.addmm_(x.mT.flatten(0, 1), weight[..., 0].T)
    return y


def transpose_convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`F.conv_transpose1d` of a spread x (B, I, T) with weight (I, O, 2 * stride); the result (B, O, (T + 1) * stride) is
    spread.

    Every output has two inputs, its own and the one before, so that all phases are one convolution of two taps.
    """
    inputs, outputs, _ = weight.shape
    if weight.numel() > 2 * stride * outputs * x[:, 0].numel():
        return _spread(F.conv_transpose1d(x.contiguous(), weight, bias, stride))
    taps = weight.view(inputs, outputs, 2, stride).flip(2).permute(3, 1, 0, 2).reshape(stride * outputs, inputs, 1, 2)
    phases = None if bias is None else bias.repeat(stride)
    padded = F.pad(x.mT, (0, 0, 1, 1)).mT
    y = F.conv2d(padded.unsqueeze(2), taps, phases).squeeze(2).mT
    return y.reshape(len(x), -1, outputs).mT


def _spread(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT
