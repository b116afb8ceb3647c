"""Queries that read a memory: pre-norm blocks with positions in queries and keys only (DETR, arXiv 2005.12872)."""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP

__all__ = ["CrossAttention", "QueryBlock", "QueryTransformer"]


class CrossAttention(nn.Module):
    """Multi-head attention whose queries, keys and values are projected from tensors of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            queries: (B, L, W).
            keys, values: (B, M, W).
            mask: bool, broadcastable to (B, heads, L, M); True where a key may be seen. None sees all.

        Returns:
            (B, L, W).
        """
        q, k, v = (
            rearrange(projected, "b l (h d) -> b h l d", h=self.heads)
            for projected in (self.query(queries), self.key(keys), self.value(values))
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class QueryBlock(nn.Module):
    """Self-attention among queries, cross-attention to a memory, MLP: pre-norm and residual.

    Positions are added to what becomes queries and keys, never to values. The memory is not normalised.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: (B, L, W) queries.
            position: (L, W) of the queries.
            keys: (B, M, W) the memory with its positions.
            values: (B, M, W) the memory.
            mask: bool, broadcastable to (B, heads, L, M); True where the memory may be seen. None sees all.
            rows: queries whose result is wanted; all see each other. None for all.

        Returns:
            (B, rows, W).
        """
        normed = self.norm1(x)
        placed = normed + position
        if rows is None:
            x = x + self.self_attn(placed, placed, normed)
        else:
            x = x[:, rows] + self.self_attn(placed[:, rows], placed, normed)
            position = position[rows]
        x = x + self.cross_attn(self.norm2(x) + position, keys, values, mask)
        return x + self.mlp(self.norm3(x))


class QueryTransformer(nn.ModuleList):
    """A stack of `QueryBlock`s over one memory."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        super().__init__(QueryBlock(width, heads, mlp_ratio) for _ in range(depth))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        position: Tensor,
        memory_position: Tensor,
        mask: Tensor | None = None,
        rows: slice | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Let queries read the memory.

        Args:
            x: (B, L, W) queries.
            memory: (B, M, W).
            position: (L, W) of the queries.
            memory_position: (M, W).
            mask: (B, M) bool, True where the memory may be seen; None sees all.
            rows: queries whose result is wanted, computed alone in the last block; None for all.
            watch: called after every block with the number of blocks done and their result.

        Returns:
            (B, rows, W).
        """
        keys = memory + memory_position
        seen = None if mask is None else mask[:, None, None]
        for number, block in enumerate(self, start=1):
            x = block(x, position, keys, memory, seen, rows if number == len(self) else None)
            if watch is not None:
                watch(number, x)
        return x
