"""The MLP gated by a GELU (arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GEGLU"]


class GEGLU(nn.Module):
    """fc2(value * gelu(gate)), value and gate from one fused projection: (..., W) -> (..., W).

    Args:
        width: W.
        hidden: width of value and gate.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * F.gelu(gate))
