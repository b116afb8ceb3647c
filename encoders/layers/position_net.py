"""Residual convolutions around one attention over all time (WavTokenizer, arXiv 2408.16532, Sec. 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.masked import MaskedGroupNorm, past
from encoders.layers.time_conv import TimeConv, blank_steps

__all__ = ["PositionNet"]


class PositionNet(nn.Module):
    """Two residual blocks, attention, two residual blocks, GroupNorm; norms of 32 groups, eps 1e-6, over all time.

    Args:
        width: W, a multiple of 32.
        dropout: inside the residual blocks, while training.

    Raises:
        ValueError: W is no multiple of 32.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        if width % 32:
            raise ValueError(
                f"PositionNet normalises 32 groups of channels; its width is a multiple of 32, got {width}"
            )
        self.blocks = nn.ModuleList(
            SequenceAttention(width) if place == 2 else TimeResidual(width, dropout) for place in range(5)
        )
        self.norm = group_norm(width)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, N, W), lengths (B,) int64 real steps or None for all -> (B, N, W)."""
        for block in self.blocks:
            x = block(x, lengths)
        return self.norm(x.mT, lengths).mT


class TimeResidual(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), kernels of 3."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(width), TimeConv(width, width, 3)
        self.norm2, self.conv2 = group_norm(width), TimeConv(width, width, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        hidden = self.conv1(self._activate(self.norm1, x, lengths))
        return x + self.conv2(self.dropout(self._activate(self.norm2, hidden, lengths)))

    def _activate(self, norm: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
        return blank_steps(F.silu(norm(x.mT, lengths).mT), lengths)


class SequenceAttention(nn.Module):
    """x + W softmax(q k / sqrt(W)) v with one head and without positions, of x normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(self.norm(x.mT, lengths).mT).chunk(3, dim=-1)
        seen = None if lengths is None else ~past(lengths, x.shape[1])[:, None]
        return x + self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))


def group_norm(width: int) -> MaskedGroupNorm:
    return MaskedGroupNorm(32, width, eps=1e-6)
