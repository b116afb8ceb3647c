"""Attention with normalised queries and keys, and norms that learn nothing."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["QKNormAttention", "plain_norm"]


def plain_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without scale and shift, eps 1e-5, computed in float32."""
    return F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype)


class QKNormAttention(nn.Module):
    """Multi-head attention without biases; queries and keys pass a `plain_norm` per head (arXiv 2302.05442).

    Projecting and attending are apart, so that the owner decides who sees whom.

    Args:
        width: W, a multiple of `head_dim`.
        head_dim: channels of a head.
        scale: of the products; None for 8 / head_dim, which is muP's rule with head_dim^-1/2 at 64 (arXiv 2203.03466).

    Raises:
        ValueError: W is no multiple of `head_dim`.
    """

    def __init__(self, width: int, head_dim: int = 64, scale: float | None = None) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"width must be a multiple of head_dim, got {width} and {head_dim}")
        self.heads = width // head_dim
        self.scale = 8 / head_dim if scale is None else scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, W) -> queries, keys and values (B, heads, L, head_dim)."""
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).unbind(0)
        return plain_norm(q), plain_norm(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Heads (B, heads, L, head_dim), and a mask as SDPA takes it -> (B, L, W) before the output projection."""
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return rearrange(out, "b h l d -> b l (h d)")
