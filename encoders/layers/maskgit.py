"""Convolutional bricks of the MaskGIT-VQGAN, an attention-free VQGAN (arXiv 2202.04200)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MaskGITBlock", "activate", "group_norm", "residual_stack"]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, eps 1e-6."""
    if channels % 32:
        raise ValueError(f"MaskGIT-VQGAN widths must be multiples of 32, got {channels}")
    return nn.GroupNorm(32, channels, eps=1e-6)


def activate(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of the normalised x; without gradients it overwrites the fresh output of the norm."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


class MaskGITBlock(nn.Module):
    """Two convolutions with a residual.

    Where the width changes, the residual is a 1x1 convolution of the *second convolution's output*, not of the block's
    input: so the published weights were trained.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = None if channels_in == channels_out else nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        hidden = self.conv1(activate(self.norm1, x))
        hidden = self.conv2(activate(self.norm2, hidden))
        return hidden + (x if self.shortcut is None else self.shortcut(hidden))


def residual_stack(channels_in: int, channels_out: int, depth: int) -> nn.Sequential:
    """`depth` blocks, the first of which changes the width."""
    return nn.Sequential(*(MaskGITBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(depth)))
