"""A residual convolution block for whitened features."""

from __future__ import annotations

from torch import Tensor, nn

from encoders.layers.init import start_at_zero

__all__ = ["ResidualConv"]


class ResidualConv(nn.Module):
    """x + conv(gelu(conv(x))) with 3 x 3 kernels and no normalisation (EDSR, arXiv 1707.02921).

    The second convolution starts at zero, so that a stack starts as the identity.

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        start_at_zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, H, W) -> the same shape."""
        return x + self.conv2(self.act(self.conv1(x)))
