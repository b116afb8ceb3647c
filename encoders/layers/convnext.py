"""ConvNeXt blocks over time, channels last (arXiv 2201.03545; in one dimension: Vocos, arXiv 2306.00814)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.streaming import Stream
from encoders.layers.time_conv import TimeConv, blank_steps

__all__ = ["ConditionalLayerNorm", "ConvNeXtBlock", "layer_norm"]


class ConditionalLayerNorm(nn.Module):
    """LayerNorm with one gain and one bias for each of K conditions; starts as a plain one.

    Args:
        width: W.
        conditions: K.
        eps: added to the variance.
    """

    def __init__(self, width: int, conditions: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(conditions, width))
        self.bias = nn.Parameter(torch.zeros(conditions, width))

    def forward(self, x: Tensor, condition: int | Tensor = 0) -> Tensor:
        """x (B, N, W); condition in [0, K), one for all or (B,) int64."""
        if isinstance(condition, int):
            return F.layer_norm(x, x.shape[-1:], self.weight[condition], self.bias[condition], self.eps)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias[condition][:, None], normed, self.weight[condition][:, None])


def layer_norm(width: int, conditions: int) -> nn.Module:
    """The norm of a block: plain without conditions; eps 1e-6."""
    return ConditionalLayerNorm(width, conditions) if conditions else nn.LayerNorm(width, eps=1e-6)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, two linear maps with an exact GELU between them, a gain per channel, residual.

    Args:
        width: W.
        hidden: width between the linear maps.
        gain: start of the gains; None for none.
        conditions: rows of the norm, 0 for a plain one.
        kernel: of the convolution, odd.
        causal: whether the convolution reads earlier steps alone, so that the block streams.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        gain: float | None = None,
        conditions: int = 0,
        kernel: int = 7,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.conv = TimeConv(width, kernel=kernel, depthwise=True, causal=causal)
        self.conditions = conditions
        self.norm = layer_norm(width, conditions)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.gain = None if gain is None else nn.Parameter(torch.full((width,), float(gain)))

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        condition: int | Tensor = 0,
        stream: Stream | None = None,
    ) -> Tensor:
        """x (B, N, W), real steps (B,) int64 or None for all, condition as in `ConditionalLayerNorm` -> (B, N, W)."""
        hidden = self.conv(blank_steps(x, lengths), stream)
        hidden = self.norm(hidden, condition) if self.conditions else self.norm(hidden)
        hidden = self.fc2(F.gelu(self.fc1(hidden)))
        return x + hidden if self.gain is None else torch.addcmul(x, self.gain, hidden)
