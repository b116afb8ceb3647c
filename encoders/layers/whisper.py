"""Whisper's transformer block, and what CosyVoice 2 added to it: rotary positions and a memory of values."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP
from encoders.layers.masked import blank
from encoders.layers.rotary import rotate_halves

__all__ = ["WhisperAttention", "WhisperBlock"]


class WhisperAttention(nn.Module):
    """Multi-head self-attention whose keys have no bias.

    Args:
        width: W, a multiple of `heads`.
        heads: number of heads.
        memory: taps of a depthwise convolution over the values, whose result and the values themselves are added to the
            output (FSMN, as in SAN-M, arXiv 2006.01713, Eq. 5 and 6); odd, 0 for none.

    Raises:
        ValueError: W is no multiple of `heads`, or `memory` is even.
    """

    def __init__(self, width: int, heads: int, memory: int = 0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        if memory and memory % 2 == 0:
            raise ValueError(f"memory is an odd number of taps, or 0 for none; got {memory}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.memory = nn.Conv1d(width, width, memory, padding=memory // 2, groups=width, bias=False) if memory else None

    def forward(self, x: Tensor, lengths: Tensor | None, mask: Tensor | None, table: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: (B, L, W).
            lengths: (B,) int64 real positions, None for all.
            mask: the same as bool, (B, 1, 1, L), True where a key is real.
            table: rotary table (2, L, head width / 2); None for no rotation.

        Returns:
            (B, L, W).
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.heads)
        if table is not None:
            q, k = rotate_halves(q, table), rotate_halves(k, table)
        out = self.proj(rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h l d -> b l (h d)"))
        if self.memory is None:
            return out
        values = blank(rearrange(v, "b h l d -> b (h d) l"), lengths)
        return out + blank(self.memory(values) + values, lengths).transpose(1, 2)


class WhisperBlock(nn.Module):
    """Pre-norm attention and MLP, both residual.

    Args:
        width, heads, memory: as of `WhisperAttention`.
        eps: of the norm in front of attention; the other has 1e-5.
    """

    def __init__(self, width: int, heads: int, memory: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = WhisperAttention(width, heads, memory)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor, lengths: Tensor | None, mask: Tensor | None, table: Tensor | None) -> Tensor:
        """(B, L, W) -> (B, L, W); arguments as in `WhisperAttention`."""
        x = x + self.attn(self.norm1(x), lengths, mask, table)
        return x + self.mlp(self.norm2(x))
