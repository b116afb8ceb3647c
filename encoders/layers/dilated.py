"""Residual units of dilated convolutions: the trunk of DAC (arXiv 2306.06546) and of codecs after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from encoders.layers.channels_last import add_product
from encoders.layers.snake import Snake
from encoders.layers.time_conv import TimeConv, blank_steps

__all__ = ["DilatedUnit", "DilatedUnits"]


class DilatedUnit(nn.Module):
    """x + conv1x1(snake(conv7(snake(x)))), with channels last.

    Args:
        width: channels.
        dilation: of the first convolution.
        depthwise: whether it works on each channel by itself.
    """

    def __init__(self, width: int, dilation: int, depthwise: bool = False) -> None:
        super().__init__()
        self.snake1 = Snake(width)
        self.conv1 = TimeConv(width, kernel=7, dilation=dilation, depthwise=depthwise)
        self.snake2 = Snake(width)
        self.conv2 = TimeConv(width)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        return self.conv1.reads(first, last)

    def forward(self, x: Tensor, *, spare: bool = False) -> Tensor:
        """(B, T, width) -> the same shape; without gradients, x may be overwritten where it is `spare`."""
        y = self.snake2(self.conv1(self.snake1(x)), spare=True)
        weight, bias = self.conv2.weight[:, 0], self.conv2.bias
        if torch.is_grad_enabled() or not (spare and x.device.type == "cpu" and x.dtype == y.dtype == weight.dtype):
            return x + self.conv2(y)
        assert bias is not None
        return add_product(x.add_(bias), y, weight)  # allocating what conv2 returns would take longer than computing it


class DilatedUnits(nn.ModuleList):
    """Units in a row, with dilations that grow.

    Args:
        width: channels.
        dilations: of the units.
        depthwise: as in `DilatedUnit`.
    """

    def __init__(self, width: int, dilations: Sequence[int] = (1, 3, 9), depthwise: bool = False) -> None:
        super().__init__(DilatedUnit(width, dilation, depthwise) for dilation in dilations)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on."""
        units: list[Any] = list(self)
        for unit in reversed(units):
            first, last = unit.reads(first, last)
        return first, last

    def forward(self, x: Tensor, lengths: Tensor | None = None, *, spare: bool = False) -> Tensor:
        """(B, T, width) -> the same shape.

        Args:
            x: the signal; without gradients it may be overwritten where it is `spare`.
            lengths: (B,) int64 real steps, beyond which items are kept at zero.
            spare: see above.
        """
        for number, unit in enumerate(self):
            x = blank_steps(unit(x, spare=spare or number > 0), lengths)
        return x
