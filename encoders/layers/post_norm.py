"""The transformer block of BERT and HuBERT: norms behind the sums, not in front of what is added."""

from __future__ import annotations

from torch import Tensor, nn

from encoders.layers.attention import MLP, Attention

__all__ = ["PostNormBlock"]


class PostNormBlock(nn.Module):
    """Attention and MLP, both residual, each followed by a norm (arXiv 1706.03762, Sec. 3.1).

    Args:
        width: W, a multiple of `heads`.
        heads: attention heads.
        hidden: width inside the MLP.
        eps: of the norms.
    """

    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, W) -> (B, L, W); mask as in `Attention`."""
        x = self.norm1(x + self.attn(x, mask))
        return self.norm2(x + self.mlp(x))
