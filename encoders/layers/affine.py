"""A gain and a bias for every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Affine"]


class Affine(nn.Module):
    """x * gain + bias over the last axis, starting as the identity: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.bias
