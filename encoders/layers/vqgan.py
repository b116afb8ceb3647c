"""Convolutional bricks of attention-free VQGANs (arXiv 2012.09841) and what later systems changed in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.maskgit import activate, group_norm

__all__ = ["AdaptiveGroupNorm", "DepthToSpace", "Downsample", "VQGANBlock", "check_widths", "residual_blocks"]


def check_widths(channels: int, multipliers: Sequence[int]) -> list[int]:
    """Widths of the levels.

    Raises:
        ValueError: no level, or a width that 32 groups do not divide.
    """
    widths = [channels * multiplier for multiplier in multipliers]
    if not widths or any(width < 1 or width % 32 for width in widths):
        raise ValueError(f"widths are normalised in 32 groups and must be multiples of 32, got {widths}")
    return widths


class VQGANBlock(nn.Module):
    """Two normalised convolutions with a residual; where the width changes, a 1x1 convolution of the input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        hidden = self.conv1(activate(self.norm1, x))
        hidden = self.conv2(activate(self.norm2, hidden))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


def residual_blocks(channels_in: int, channels_out: int, depth: int) -> nn.Sequential:
    """`depth` blocks, the first of which changes the width."""
    widths = [channels_in, *[channels_out] * depth]
    return nn.Sequential(*(VQGANBlock(before, after) for before, after in pairwise(widths)))


class Downsample(nn.Module):
    """Half the resolution by a strided convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class DepthToSpace(nn.Module):
    """Twice the resolution: a convolution to 4 C channels, (offset y, offset x, channel), folded into 2 x 2 pixels.

    The offsets are the slow part of the channel axis, as in ONNX's mode "DCR"; `torch.nn.PixelShuffle` has them fast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2 h, 2 w)."""
        return rearrange(self.conv(x), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm whose gain and bias are linear in the deviation and the mean of a style map (arXiv 1703.06868).

    Args:
        channels: C, a multiple of 32.
        style: channels S of the style map.
    """

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(style, channels)
        self.beta = nn.Linear(style, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, h, w), style (B, S, h', w') with more than one position -> (B, C, h, w)."""
        variance, mean = torch.var_mean(style, dim=(2, 3))
        gain, bias = self.gamma((variance + 1e-6).sqrt()), self.beta(mean)
        normed = F.group_norm(x, 32, eps=1e-6)
        return torch.addcmul(bias[..., None, None], gain[..., None, None], normed)
