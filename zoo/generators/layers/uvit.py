"""U-ViT: a transformer whose later blocks also read the results of the earlier ones (arXiv 2209.12152)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.layers.attention import MLP
from zoo.generators.layers.vit import SelfAttention, draw_weights

__all__ = ["UViTNet"]


class UViTBlock(nn.Module):
    """Pre-norm attention and MLP; with `skip`, a linear layer first joins the stream and an earlier block's result."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, skip: bool = False) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, bias=False, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class UViTNet(nn.Module):
    """The MaskGIT network of TiTok-S-128; its head has a row for every code, none for masks and classes.

    Args:
        vocabulary: ids that can be read.
        codes: ids K that can be predicted.
        length: positions L.
        width, depth, heads, hidden: W, blocks besides the middle one (even), heads and the width inside the MLP.
        dropout: of attention weights and both branches.
    """

    def __init__(
        self, vocabulary: int, codes: int, length: int, width: int, depth: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        if depth % 2:
            raise ValueError(f"a U-ViT has as many blocks before its middle as behind it; depth={depth} is odd")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(1, length, width))
        self.in_blocks = nn.ModuleList(UViTBlock(width, heads, hidden, dropout) for _ in range(depth // 2))
        self.mid_block = UViTBlock(width, heads, hidden, dropout)
        self.out_blocks = nn.ModuleList(UViTBlock(width, heads, hidden, dropout, skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        self.apply(draw_weights)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> logits (B, L, K)."""
        x = self.embedding(ids) + self.positions
        earlier: list[Tensor] = []
        for block in self.in_blocks:
            x = block(x)
            earlier.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, earlier.pop())
        return self.head(self.norm(x))
