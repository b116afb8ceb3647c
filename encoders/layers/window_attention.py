"""Attention within windows that stand side by side (SNAC, arXiv 2410.14411)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.rotary import line_positions, rotary_table, rotate_halves

__all__ = ["WindowAttention"]


class WindowAttention(nn.Module):
    """x + W_o attention(norm(x)): every window by itself, both ways, rotary positions counted from its start.

    Args:
        width: channels, a multiple of `head_dim`.
        window: steps of a window.
        head_dim: channels of a head.

    Raises:
        ValueError: a width that is no multiple of `head_dim`.
    """

    def __init__(self, width: int, window: int, head_dim: int = 64) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"width must be a multiple of head_dim={head_dim}, got {width}")
        self.window, self.head_dim = window, head_dim
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def reads(self, first: int, last: int) -> tuple[int, int]:
        """Input steps that the output steps from `first` to `last` depend on: whole windows."""
        return first // self.window * self.window, (last // self.window + 1) * self.window - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same shape; T is a multiple of `window`."""
        layout = "b (w n) (three h d) -> three (b w) h n d"
        q, k, v = rearrange(self.qkv(self.norm(x)), layout, three=3, n=self.window, d=self.head_dim)
        table = rotary_table(line_positions(self.window, axes=1), self.head_dim).to(x.device)
        q, k = rotate_halves(q, table), rotate_halves(k, table)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(rearrange(out, "(b w) h n d -> b (w n) (h d)", b=len(x)))
