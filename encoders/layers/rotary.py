"""Rotary position embedding over several axes (RoFormer, arXiv 2104.09864), and transformer blocks that use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP

__all__ = [
    "RotaryAttention",
    "RotaryBlock",
    "grid_positions",
    "line_positions",
    "rotary_table",
    "rotate",
    "rotate_halves",
]


def grid_positions(height: int, width: int, start: int = 0) -> Tensor:
    """Row and column of every cell, row by row, both counted from `start`: (height * width, 2) int64."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], dim=-1).flatten(0, 1) + start


def line_positions(count: int, start: int = 0, axes: int = 2) -> Tensor:
    """A sequence among grids: token i stands at `start + i` on every axis, (count, axes) int64."""
    return torch.arange(start, start + count)[:, None].expand(-1, axes)


def rotary_table(positions: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Cosines and sines by which a head is rotated.

    The A axes share a head evenly, one after the other. With P = head_dim / A channels, an axis turns its pair i by
    position * theta^(-2 i / P).

    Args:
        positions: (L, A).
        head_dim: channels of a head.
        theta: longest wavelength over 2 pi.

    Returns:
        (2, L, head_dim / 2) float32: cosines, then sines.

    Raises:
        ValueError: head_dim is no multiple of 2 A.
    """
    axes = positions.shape[1]
    if head_dim % (2 * axes):
        raise ValueError(f"{axes} rotary axes need heads of a multiple of {2 * axes} channels, got {head_dim}")
    share = head_dim // axes
    frequencies = theta ** -(torch.arange(0, share, 2, dtype=torch.float64) / share)
    angles = rearrange(positions.double()[..., None] * frequencies, "l a i -> l (a i)")
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn every pair of neighbouring channels by its angle.

    Args:
        x: (..., L, D).
        table: (2, L, D / 2) of `rotary_table`.

    Returns:
        (..., L, D) in x's dtype; computed in float32.
    """
    cosine, sine = table
    first, second = rearrange(x.float(), "... (i two) -> two ... i", two=2)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, table: Tensor) -> Tensor:
    """As `rotate`, but channel i turns together with channel i + D / 2 (GPT-NeoX, transformers)."""
    cosine, sine = table
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(x.dtype)


class RotaryAttention(nn.Module):
    """Multi-head self-attention with learned norms of queries and keys per head, then a rotation by position.

    Queries and values have biases, keys have none (as in BEiT, arXiv 2106.08254).

    Args:
        width: W, a multiple of `heads`.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.q_norm = nn.LayerNorm(width // heads)
        self.k_norm = nn.LayerNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None = None,
        rows: slice | None = None,
        ends: Sequence[int] = (),
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, L, W).
            table: (2, L, W / heads / 2) of `rotary_table`.
            mask: bool, broadcastable to (B, heads, rows, L); True where a key may be seen. None sees all. With `ends`
                it is for the rows after the last of them.
            rows: positions whose result is wanted; all positions stay keys. None for all.
            ends: where the leading blocks of rows end, each of which sees what comes before its end. Costs less than
                a mask that says so, because the keys after it are not even read.

        Returns:
            (B, rows, W).
        """
        width, weight, heads = x.shape[-1], self.qkv.weight, self.heads
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        if rows is None:
            qkv = F.linear(x, weight, torch.cat([self.q_bias, bias]))
            q, k, v = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=heads)
            turned = table
        else:
            q = rearrange(F.linear(x[:, rows], weight[:width], self.q_bias), "b l (h d) -> b h l d", h=heads)
            k, v = rearrange(F.linear(x, weight[width:], bias), "b l (two h d) -> two b h l d", two=2, h=heads)
            turned = table[:, rows]
        q, k = rotate(self.q_norm(q), turned), rotate(self.k_norm(k), table)
        q, k = q.to(v.dtype), k.to(v.dtype)
        blocks = [
            F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
            for start, end in pairwise((0, *ends))
        ]
        rest = q[:, :, ends[-1] :] if ends else q
        blocks.append(F.scaled_dot_product_attention(rest, k, v, attn_mask=mask))
        out = torch.cat([rearrange(block, "b h l d -> b l (h d)") for block in blocks], dim=1)
        return self.proj(out)


class RotaryBlock(nn.Module):
    """Pre-norm rotary attention and MLP, each scaled per channel where it is added (LayerScale, arXiv 2103.17239)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, scale: float = 1.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = RotaryAttention(width, heads)
        self.gamma1 = nn.Parameter(torch.full((width,), scale))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.gamma2 = nn.Parameter(torch.full((width,), scale))

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        mask: Tensor | None = None,
        rows: slice | None = None,
        ends: Sequence[int] = (),
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(B, L, W) -> (B, rows, W).

        Args:
            table, mask, rows, ends: as in `RotaryAttention`.
            between: what happens to the sequence after attention and before the MLP; it may change its length.
        """
        residual = x if rows is None else x[:, rows]
        x = residual + self.gamma1 * self.attn(self.norm1(x), table, mask, rows, ends)
        if between is not None:
            x = between(x)
        return x + self.gamma2 * self.mlp(self.norm2(x))
