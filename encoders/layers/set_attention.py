"""Queries that read a set: one cross-attention with what the set says computed once (Perceiver, arXiv 2103.03206)."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ReadBlock", "SetAttention"]

Memory = tuple[Tensor, Tensor]


class SetAttention(nn.Module):
    """Multi-head attention of queries to a set, keys and values from one fused projection.

    Args:
        width: W of queries, set and result.
        heads: a divisor of W, or any number with `head_dim`.
        head_dim: d of a head; None for W / heads.
        bias: of the projections to queries, keys and values.

    Raises:
        ValueError: W is no multiple of heads.
    """

    def __init__(self, width: int, heads: int, head_dim: int | None = None, *, bias: bool = False) -> None:
        super().__init__()
        if head_dim is None and width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads, self.head_dim = heads, head_dim or width // heads
        self.query = nn.Linear(width, heads * self.head_dim, bias=bias)
        self.key_value = nn.Linear(width, 2 * heads * self.head_dim, bias=bias)
        self.proj = nn.Linear(heads * self.head_dim, width)

    def memory(self, context: Tensor) -> Memory:
        """Keys and values (B, heads, M, d) of a set (B, M, W)."""
        k, v = rearrange(self.key_value(context), "b m (two h d) -> two b h m d", two=2, h=self.heads).unbind(0)
        return k, v

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        q = rearrange(self.query(x), "b l (h d) -> b h l d", h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, *memory), "b h l d -> b l (h d)"))


class ReadBlock(nn.Module):
    """Pre-norm attention to a set, then an MLP, both residual.

    Args:
        width: W.
        heads: see `SetAttention`.
        mlp: (..., W) to (..., W).
        bias: see `SetAttention`.
        norm_context: whether the set is normalised too.
    """

    def __init__(
        self, width: int, heads: int, mlp: nn.Module, *, bias: bool = False, norm_context: bool = True
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if norm_context else nn.Identity()
        self.attn = SetAttention(width, heads, bias=bias)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = mlp

    def memory(self, context: Tensor) -> Memory:
        """Keys and values of a set (B, M, W)."""
        return self.attn.memory(self.norm_context(context))

    def attend(self, x: Tensor, memory: Memory) -> Tensor:
        """The first half of the block: (B, L, W) -> (B, L, W)."""
        return x + self.attn(self.norm(x), memory)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        x = self.attend(x, memory)
        return x + self.mlp(self.norm_mlp(x))
