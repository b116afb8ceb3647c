"""The transformer of autoregressive generators, after Llama: RMSNorm, rotary attention, SwiGLU, no biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.swiglu import SwiGLU
from zoo.generators.layers.cache import KVCache
from zoo.generators.layers.rotary import rotate

if TYPE_CHECKING:
    from zoo.generators.layers.packed import Packed

__all__ = ["Attention", "Block", "Transformer"]

EPS = 1e-5  # of the normalisations


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, over a whole sequence or its newest part.

    Args:
        width: W, a multiple of `heads`.
        heads: number of heads.
        dropout: of the output.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is a multiple of heads, got {width} and {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Tensor | None = None,
        start: int | Tensor = 0,
    ) -> Tensor:
        """(B, L, W) -> (B, L, W).

        Args:
            x: a sequence, or with a cache its elements from `start` on.
            table: (2, L, D) of `spread_table`.
            mask: (L, M) bool, True where row i sees column j; M is L, or the places of the cache that are read.
            causal: each element sees itself and those before; in place of a mask.
            cache: (2, B, H, places, D); keys and values are put there, and those before are read.
            start: place of the first element in the cache. With a tensor () int64 all places of the cache are read, so
                that shapes stay the same from step to step, and the mask says which count.
        """
        batch, length, width = x.shape
        fused = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        turned = rotate(fused[:2], table.to(fused.dtype))
        query, keys, values = turned[0], turned[1], fused[2]
        if cache is not None and isinstance(start, Tensor):
            index = start + torch.arange(length, device=x.device)
            keys, values = cache[0].index_copy_(2, index, keys), cache[1].index_copy_(2, index, values)
        elif cache is not None:
            end = start + length
            cache[0, :, :, start:end] = keys
            cache[1, :, :, start:end] = values
            if start:
                keys, values = cache[0, :, :, :end], cache[1, :, :, :end]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width, heads, dropout: of the attention; dropout also of the MLP's output.
        hidden: inner width of the MLP; None for that of `SwiGLU`.
    """

    def __init__(self, width: int, heads: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPS)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.RMSNorm(width, eps=EPS)
        self.mlp = SwiGLU(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Tensor | None = None,
        start: int | Tensor = 0,
    ) -> Tensor:
        """See `Attention`."""
        x = x + self.attention(self.attention_norm(x), table, mask, causal, cache, start)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """Blocks and a last norm.

    Args:
        width, heads, hidden, dropout: of every block.
        depth: blocks.

    Attributes:
        packed: what takes steps of one element, while there is something; see `packed`.
    """

    packed: Packed | None = None

    def __init__(self, width: int, depth: int, heads: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=EPS)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        start: int | Tensor = 0,
    ) -> Tensor:
        """See `Attention`; what comes out is normalised."""
        if mask is None and cache is not None and isinstance(start, int) and self.packed and self.packed.fits(x):
            return self.packed(x, table, cache, start)
        for number, block in enumerate(self.blocks):
            x = block(x, table, mask, causal, None if cache is None else cache.layers[number], start)
        return self.norm(x)

    def cache(self, rows: int, length: int, *, dtype: torch.dtype | None = None) -> KVCache:
        """Memory for `rows` sequences of up to `length` elements, on the device of the weights."""
        device = self.norm.weight.device
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self.norm.weight.dtype
        return KVCache(len(self.blocks), rows, self.heads, length, self.head_dim, device=device, dtype=dtype)
