"""BERT, norms behind the sums, as a predictor of masked tokens; attention with dropout."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP

__all__ = ["BertNet", "SelfAttention", "draw_weights"]


class SelfAttention(nn.Module):
    """Bidirectional attention with one fused projection and dropout on its weights.

    Args:
        width: W, a multiple of `heads`.
        heads: attention heads.
        bias: of the fused projection.
        dropout: share of the attention weights left out in training.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class BertBlock(nn.Module):
    """Attention and MLP, both residual with dropout, each followed by a norm (arXiv 1810.04805)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, eps: float = 1e-12) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class BertNet(nn.Module):
    """BERT as TiTok's and One-D-Piece's MaskGIT use it; the table of embeddings is its head, too.

    Args:
        vocabulary: ids V that can be read and, formally, predicted.
        length: positions L.
        width, depth, heads, hidden: W, blocks, heads and the width inside the MLP.
        dropout: of embeddings, attention weights and both branches.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, heads: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.kinds = nn.Parameter(torch.empty(2, width))  # BERT's two kinds of sentence; all tokens are of the first
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(BertBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.apply(draw_weights)
        for table in (self.positions, self.kinds):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> logits (B, L, V)."""
        x = self.dropout(self.norm(self.embedding(ids) + self.kinds[0] + self.positions))
        for block in self.blocks:
            x = block(x)
        return F.linear(x, self.embedding.weight, self.bias)


def draw_weights(module: nn.Module) -> None:
    """N(0, 0.02^2), cut at two units, for weights and tables; zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
