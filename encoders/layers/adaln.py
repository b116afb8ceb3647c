"""Conditioning on time by scales, shifts and gates (adaLN, arXiv 2212.09748)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.qknorm import plain_norm
from encoders.layers.sincos import sinusoid

__all__ = ["Modulation", "TimeEmbedding", "modulate"]


class TimeEmbedding(nn.Module):
    """Times in [0, 1] to vectors: sinusoids and a small MLP.

    Args:
        width: W of the result.
        features: sinusoids, half of them cosines.
        max_timestep: times are multiplied by 1000 / max_timestep.
        max_period: spread of the frequencies.
    """

    def __init__(self, width: int, features: int = 256, max_timestep: float = 1000.0, max_period: float = 256) -> None:
        super().__init__()
        self.features, self.factor, self.max_period = features, 1000 / max_timestep, max_period
        self.fc1 = nn.Linear(features, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        """(B,) -> (B, W)."""
        waves = sinusoid(times, self.features, max_period=self.max_period, factor=self.factor)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))


class Modulation(nn.Module):
    """A time vector to `count` vectors for each of `kinds` kinds of tokens: (B, W) -> (B, kinds, count, W)."""

    def __init__(self, width: int, count: int, kinds: int = 1) -> None:
        super().__init__()
        self.shape = (kinds, count, width)
        self.linear = nn.Linear(width, kinds * count * width)

    def forward(self, time: Tensor) -> Tensor:
        return self.linear(F.silu(time)).unflatten(-1, self.shape)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """plain_norm(x) * (1 + scale) + shift, for x (B, L, W) and the others (B or 1, W)."""
    return plain_norm(x) * (1 + scale[:, None]) + shift[:, None]
