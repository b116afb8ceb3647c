"""The gated MLP of recent transformers (arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SwiGLU"]


class SwiGLU(nn.Module):
    """fc2(silu(gate) * value), gate and value from one fused projection without biases: (..., W) -> (..., W).

    Args:
        width: W.
        hidden: width of gate and value; None for int(2 * 4 W / 3), which costs what a plain MLP of ratio 4 does.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = int(2 * 4 * width / 3) if hidden is None else hidden
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)
