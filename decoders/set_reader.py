"""Values at any point in space, read from a set by one cross-attention: the costly end of every set-based field."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.init import start_at_zero
from encoders.layers.set_attention import SetAttention

__all__ = ["SetReader"]


class SetReader(nn.Module):
    """A point attends to the set and what it reads becomes its value, without a residual (arXiv 2301.11445, Eq. 13).

        value = head(attention(norm(embed(f)), set)),    f the point's Fourier features

    Nothing but f differs from point to point, and f is short (51 numbers against a width of 512). `prepare` therefore
    moves all linear maps between f and the scores into the keys, once a set:

        norm(embed(f)) = gain * T [f, 1] / s + bias,    s^2 = |T [f, 1]|^2 / W + eps,    T the centred map of embed
        score = k . Wq norm(embed(f)) = (T' gain * Wq' k) . [f, 1] / s + (Wq' k) . bias

    so that queries of width W are never projected, and heads are F + 2 wide. Where the head is linear, it goes into the
    values in the same way: they become one number per member of the set. `plain` is the same in the order of the paper.

    Args:
        width: W.
        heads: of the attention.
        norm_context: whether the set is normalised first.
        norm_output: whether what was read is normalised before the head, which then starts at zero.
    """

    def __init__(self, width: int, heads: int, *, norm_context: bool = True, norm_output: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if norm_context else nn.Identity()
        self.attn = SetAttention(width, heads)
        self.norm_output = nn.LayerNorm(width) if norm_output else None
        self.head = nn.Linear(width, 1)
        if norm_output:
            start_at_zero(self.head)

    def plain(self, embedded: Tensor, members: Tensor) -> Tensor:
        """Embedded points (B, Q, W) and the set (B, M, W) to values (B, Q)."""
        out = self.attn(self.norm(embedded), self.attn.memory(self.norm_context(members)))
        return self.head(out if self.norm_output is None else self.norm_output(out))[..., 0]

    def prepare(self, members: Tensor, embed: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` needs of a set (B, M, W) for points embedded by `embed` from F features.

        Returns:
            Keys and values (B, heads, M, K), K >= F + 2 padded with zeros, and T' (B, F + 1, W).
        """
        keys, values = self.attn.memory(self.norm_context(members))
        with torch.autocast(members.device.type, enabled=False):
            table = torch.cat([embed.weight, embed.bias[:, None]], dim=1).float()
            table = table - table.mean(0)
            normed = torch.cat([self.norm.weight[:, None] * table, self.norm.bias[:, None]], dim=1)
            maps = rearrange(self.attn.query.weight.float() @ normed, "(h d) f -> h d f", h=self.attn.heads)
            keys = keys.float() @ maps * self.attn.head_dim**-0.5
            if self.norm_output is None:
                readout = self.head.weight.float() @ self.attn.proj.weight.float()
                values = values.float() @ rearrange(readout, "one (h d) -> h d one", h=self.attn.heads)
        size = -(-max(keys.shape[-1], values.shape[-1]) // 8) * 8  # attention kernels want multiples of 8
        keys, values = (F.pad(tensor, (0, size - tensor.shape[-1])).to(members.dtype) for tensor in (keys, values))
        return keys, values, table.mT.expand(len(members), -1, -1)

    def forward(self, features: Tensor, prepared: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Fourier features (B, Q, F) float32 of points to values (B, Q)."""
        keys, values, table = prepared
        with torch.autocast(features.device.type, enabled=False):
            one = torch.ones_like(features[..., :1])
            extended = torch.cat([features, one], dim=-1)
            length = torch.linalg.vector_norm(extended @ table, dim=-1, keepdim=True)
            scale = (length.square() / table.shape[-1] + self.norm.eps).rsqrt()
            queries = torch.cat([extended * scale, one], dim=-1)
            queries = F.pad(queries, (0, keys.shape[-1] - queries.shape[-1])).to(keys.dtype)
        queries = queries[:, None].expand(-1, self.attn.heads, -1, -1)
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        if self.norm_output is None:
            return out[..., 0].sum(1) + self.head(self.attn.proj.bias)
        read = self.attn.proj(rearrange(out[..., : self.attn.head_dim], "b h q d -> b q (h d)"))
        return self.head(self.norm_output(read))[..., 0]
