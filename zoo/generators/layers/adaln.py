"""Causal blocks whose norms are scaled, shifted and gated by a condition that changes from position to position."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP
from encoders.layers.init import start_at_zero

__all__ = ["AdaLNBlock", "AdaLNHead", "CausalAttention", "start_closed"]


class CausalAttention(nn.Module):
    """Causal attention with biases; queries and keys pass a LayerNorm per head (arXiv 2302.05442).

    Args:
        width: W, a multiple of `heads`.
        heads: attention heads.
        dropout: share of the attention weights left out in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cache: Tensor | None = None, start: int = 0) -> Tensor:
        """(B, n, W) -> (B, n, W).

        Args:
            x: a sequence, or with a cache its elements from `start` on.
            cache: (2, B, heads, places, D) of `KVCache`; keys and values are put there, and those before are read.
            start: place of the first element in the cache.
        """
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        mask = None
        if cache is not None:
            end = start + x.shape[1]
            cache[0, :, :, start:end], cache[1, :, :, start:end] = k, v
            k, v = cache[0, :, :, :end], cache[1, :, :, :end]
            if start and x.shape[1] > 1:
                mask = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).tril(start)
        share = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not start, dropout_p=share)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class AdaLNBlock(nn.Module):
    """Attention and MLP, each between a shifted and scaled norm and a gate (adaLN, arXiv 2212.09748).

    The norms learn a scale and shift of their own, too. The modulation starts at zero, and the block as the identity.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = CausalAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden)
        self.modulation = nn.Linear(width, 6 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor, cache: Tensor | None = None, start: int = 0) -> Tensor:
        """(B, n, W) with a condition (B, n, W) -> (B, n, W); cache and start as in `CausalAttention`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        x = x + gate1 * self.dropout(self.attn(self.norm1(x) * (1 + scale1) + shift1, cache, start))
        return x + gate2 * self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class AdaLNHead(nn.Module):
    """A norm without parameters of its own, scaled and shifted by the condition, before a linear layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, n, W) with a condition (B, n, W) -> (B, n, outputs)."""
        scale, shift = self.modulation(F.silu(condition)).chunk(2, dim=-1)
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def start_closed(module: AdaLNBlock | AdaLNHead) -> None:
    """Zero the modulation, so that nothing depends on the condition at first and gates are shut."""
    start_at_zero(module.modulation)
