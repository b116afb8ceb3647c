"""Pre-norm transformer bricks shared by 1D encoders and decoders: fused projections, one SDPA call a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.drop_path import drop_path
from encoders.layers.init import start_at_zero

__all__ = ["MLP", "Attention", "Block", "Transformer", "embedding", "init_weights", "start_as_identity"]


def embedding(count: int, width: int) -> nn.Parameter:
    """A learned table (count, width), drawn from N(0, 1 / width)."""
    return nn.Parameter(torch.randn(count, width) * width**-0.5)


def init_weights(module: nn.Module) -> None:
    """TiTok's initialisation: N(0, 0.02^2) weights, zero biases; fused query-key-value weights are Xavier uniform."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        nn.init.xavier_uniform_(module.qkv.weight)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection.

    Args:
        width: W.
        heads: a divisor of W, or any number with `head_dim`.
        head_dim: width of a head; None for W / heads.
        bias: of the fused projection.
    """

    def __init__(self, width: int, heads: int, head_dim: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        if head_dim is None and width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        inner = width if head_dim is None else heads * head_dim
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, L, W).
            mask: bool, broadcastable to (B, heads, rows, L); True where a key may be seen. None sees all.
            rows: positions whose result is wanted; all positions stay keys. None for all.

        Returns:
            (B, rows, W).
        """
        if rows is None:
            q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).unbind(0)
        else:
            inner = self.proj.in_features
            weights = self.qkv.weight.split([inner, 2 * inner])
            biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split([inner, 2 * inner])
            q = rearrange(F.linear(x[:, rows], weights[0], biases[0]), "b l (h d) -> b h l d", h=self.heads)
            kv = F.linear(x, weights[1], biases[1])
            k, v = rearrange(kv, "b l (two h d) -> two b h l d", two=2, h=self.heads).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class MLP(nn.Module):
    """Two linear layers around an exact GELU: (..., W) -> (..., W)."""

    def __init__(self, width: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, both residual.

    Args:
        width, heads: W and heads of the attention.
        mlp_ratio: hidden width of the MLP over W.
        mlp: another MLP in its place, (..., W) to (..., W).
        head_dim, bias: see `Attention`.
        drop_path: share of the items that skip a residual branch in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        mlp: nn.Module | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, head_dim, bias=bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp: Any = MLP(width, int(width * mlp_ratio)) if mlp is None else mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor, mask: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """(B, L, W) -> (B, rows, W); `mask` and `rows` as in `Attention`."""
        residual = x if rows is None else x[:, rows]
        x = residual + drop_path(self.attn(self.norm1(x), mask, rows), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


def start_as_identity(block: Block) -> Block:
    """Zero the two projections that a block adds to its input; returns the block."""
    start_at_zero(block.attn.proj)
    start_at_zero(block.mlp.fc2)
    return block


class Transformer(nn.ModuleList):
    """A stack of blocks that computes, in its last block, only the rows that are read."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        super().__init__(Block(width, heads, mlp_ratio) for _ in range(depth))

    def forward(
        self, x: Tensor, rows: slice, mask: Tensor | None = None, watch: Callable[[int, Tensor], None] | None = None
    ) -> Tensor:
        """(B, L, W) -> (B, rows, W).

        Args:
            mask: bool, (B, 1, 1, L), True where a position may be seen.
            watch: called after every block but the last with the number of blocks done and their result (B, L, W).
        """
        last = len(self) - 1
        for number, block in enumerate(self):
            x = block(x, mask, rows if number == last else None)
            if watch is not None and number < last:
                watch(number + 1, x)
        return x
