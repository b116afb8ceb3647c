"""Convolutions along time with channels last: (B, T, C) throughout, which CPUs compute fastest and nothing transposes.

All pad with zeros. Their weights lie as they are multiplied; `from_conv` and `from_transposed` bring the layouts of
`torch.nn.Conv1d` and `torch.nn.ConvTranspose1d` into theirs.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.masked import past
from encoders.layers.streaming import Stream

__all__ = ["TimeConv", "TimeDown", "TimeUp", "blank_steps", "from_conv", "from_transposed"]

Steps = TypeVar("Steps", int, Tensor)
FEW = 256  # rows below which a plain matrix product is faster than a convolution with its reordered weights


def from_conv(weight: Tensor) -> Tensor:
    """Weights (O, I, K) of a convolution -> (O, K, I)."""
    return weight.mT.contiguous()


def from_transposed(weight: Tensor) -> Tensor:
    """Weights (I, O, 2 S) of a transposed convolution of stride S -> (S, O, 2, I): phase, output, later or own step."""
    inputs, outputs, kernel = weight.shape
    taps = weight.view(inputs, outputs, 2, kernel // 2)
    return taps.flip(2).permute(3, 1, 2, 0).contiguous()


def blank_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (B, T, C) with zeros past `lengths` (B,) int64; None: as it is."""
    return x if lengths is None else x.masked_fill(past(lengths, x.shape[1])[..., None], 0)


class TimeConv(nn.Module):
    """A convolution that keeps the length: T steps to T.

    Args:
        width_in, width_out: channels; `width_out` None: the same.
        kernel: taps, an odd number.
        dilation: steps from tap to tap.
        depthwise: each channel by itself.
        bias: add one.
        causal: no output reads a later step; else as many as earlier ones.

    Raises:
        ValueError: an even kernel, or a depthwise convolution that changes the width.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int | None = None,
        kernel: int = 1,
        *,
        dilation: int = 1,
        depthwise: bool = False,
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        width_out = width_in if width_out is None else width_out
        if kernel % 2 == 0:
            raise ValueError(f"TimeConv keeps the length with an odd kernel, got {kernel}")
        if depthwise and width_in != width_out:
            raise ValueError(f"a depthwise convolution keeps the width, got {width_in} and {width_out}")
        self.dilation, self.depthwise, self.causal = dilation, depthwise, causal
        self.margin = dilation * (kernel // 2)
        self.before = dilation * (kernel - 1) if causal else self.margin
        self.weight = nn.Parameter(torch.empty(width_out, kernel, 1 if depthwise else width_in))
        self.bias = nn.Parameter(torch.empty(width_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(-1, 1) / sqrt(inputs of an output); biases are 0."""
        _start(self.weight, self.weight[0].numel(), self.bias)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return first - self.before, last + (0 if self.causal else self.margin)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """(B, T, width_in) -> (B, T, width_out); with a stream, if causal, x goes on where the last one ended."""
        if stream is not None or self.causal:
            return self._behind(x, stream)
        if self.depthwise:
            return self._by_channel(x)
        if self.margin == 0:
            return F.linear(x, self.weight[:, 0], self.bias)
        if self.dilation == 1 and _few(x):
            return F.linear(_windows(_pad(x, self.margin, self.margin), self.weight.shape[1]), self._rows(), self.bias)
        margin, step = (0, self.margin), (1, self.dilation)
        y = F.conv2d(x.mT.unsqueeze(2), self.weight.mT.unsqueeze(2), self.bias, padding=margin, dilation=step)
        return y.squeeze(2).mT

    def _behind(self, x: Tensor, stream: Stream | None) -> Tensor:
        """The causal convolution of x behind what the stream has kept of earlier steps, or behind zeros."""
        if not self.causal:
            raise ValueError("a convolution that reads later steps cannot stream; build it with causal=True")
        kept = None if stream is None else stream.get(self)
        x = _pad(x, self.before, 0) if kept is None else torch.cat((kept, x), dim=1)
        if stream is not None:
            stream.put(self, x[:, x.shape[1] - self.before :].clone())
        if x.shape[1] == self.before:
            return x.new_zeros(len(x), 0, len(self.weight))
        if not self.depthwise and self.dilation == 1 and _few(x):
            return F.linear(_windows(x, self.weight.shape[1]), self._rows(), self.bias)
        if self.depthwise:
            weight, step, groups = self.weight.mT.unsqueeze(-1), (self.dilation, 1), len(self.weight)
            return F.conv2d(x.mT.unsqueeze(-1), weight, self.bias, dilation=step, groups=groups).squeeze(-1).mT
        step = (1, self.dilation)
        return F.conv2d(x.mT.unsqueeze(2), self.weight.mT.unsqueeze(2), self.bias, dilation=step).squeeze(2).mT

    def _rows(self) -> Tensor:
        return self.weight.flatten(1)

    def _by_channel(self, x: Tensor) -> Tensor:
        """Every `dilation`-th step makes a signal of its own, in a picture (T / dilation, dilation) without holes."""
        length, width = x.shape[1:]
        image = _pad(x, 0, -length % self.dilation).unflatten(1, (-1, self.dilation)).permute(0, 3, 1, 2)
        weight = self.weight.mT.unsqueeze(-1)
        y = F.conv2d(image, weight, self.bias, padding=(weight.shape[2] // 2, 0), groups=width)
        return y.permute(0, 2, 3, 1).flatten(1, 2)[:, :length]

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, dilation={self.dilation}, depthwise={self.depthwise}"


class TimeDown(nn.Module):
    """A convolution of stride S over 2 S steps: S T steps to T (arXiv 2306.06546, its downsampling).

    ceil(S / 2) zeros stand in front of the signal, the others behind.

    Args:
        width_in, width_out: channels.
        stride: S.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.before = stride, -(-stride // 2)
        self.weight = nn.Parameter(torch.empty(width_out, 2 * stride, width_in))
        self.bias = nn.Parameter(torch.empty(width_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(-1, 1) / sqrt(inputs of an output); biases are 0."""
        _start(self.weight, self.weight[0].numel(), self.bias)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return first * self.stride - self.before, (last + 2) * self.stride - self.before - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, S T, width_in) -> (B, T, width_out)."""
        frames = _pad(x, self.before, self.stride - self.before).unflatten(1, (-1, self.stride)).flatten(2)
        return _two_taps(frames, self.weight.unflatten(1, (2, -1)).flatten(2), self.bias)

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}"


class TimeUp(nn.Module):
    """A transposed convolution of stride S over 2 S steps: T steps to S T, computed as one product for all phases.

    Of the S T + S steps that kernels reach, ceil(S / 2) are cut off in front and the others behind; with `short` and an
    odd S, one more behind, which leaves S T - 1.

    Args:
        width_in, width_out: channels.
        stride: S.
        short: see above: DAC's decoder has no output padding, SNAC's has.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, *, short: bool = False) -> None:
        super().__init__()
        self.stride, self.before = stride, -(-stride // 2)
        self.lost = stride % 2 if short else 0
        self.weight = nn.Parameter(torch.empty(stride, width_out, 2, width_in))
        self.bias = nn.Parameter(torch.empty(width_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(-1, 1) / sqrt(2 S width_out), as PyTorch starts transposed convolutions; biases are 0."""
        _start(self.weight, 2 * self.weight.shape[:2].numel(), self.bias)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return (first + self.before) // self.stride - 1, (last + self.before) // self.stride

    def length(self, steps: Steps) -> Steps:
        """Output steps of so many input steps."""
        return steps * self.stride - self.lost

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width_in) -> (B, S T, width_out), or a step less."""
        steps = x.shape[1] * self.stride - self.lost
        y = _two_taps(_pad(x, 1, 1), self.weight.flatten(0, 1), self.bias.repeat(self.stride))
        return y.unflatten(2, (self.stride, -1)).flatten(1, 2)[:, self.before : self.before + steps]

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}, lost={self.lost}"


def _start(weight: Tensor, inputs: int, bias: Tensor | None) -> None:
    nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5)
    if bias is not None:
        nn.init.zeros_(bias)


def _pad(x: Tensor, before: int, after: int) -> Tensor:
    return F.pad(x, (0, 0, before, after)) if before or after else x


def _few(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[0] * x.shape[1] < FEW


def _windows(x: Tensor, kernel: int) -> Tensor:
    """(B, T + kernel - 1, C) -> (B, T, kernel * C)."""
    return x.unfold(1, kernel, 1).mT.flatten(2)


def _two_taps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of two neighbouring steps: x (B, T + 1, C), weight (O, 2, C) -> (B, T, O)."""
    if _few(x):
        return F.linear(torch.cat((x[:, :-1], x[:, 1:]), dim=-1), weight.flatten(1), bias)
    return F.conv2d(x.mT.unsqueeze(2), weight.mT.unsqueeze(2), bias).squeeze(2).mT
