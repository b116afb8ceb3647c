"""Residual units of dilated convolutions: the trunk of DAC (arXiv 2306.06546) and of codecs after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same shape."""
        y = self.conv2(self.snake2(self.conv1(self.snake1(x)), spare=True))
        return x + y if torch.is_grad_enabled() else y.add_(x)


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

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, width) -> the same shape; `lengths` (B,) int64 real steps, beyond which items are kept at zero."""
        for unit in self:
            x = blank_steps(unit(x), lengths)
        return x
