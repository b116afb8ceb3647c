"""A causal transformer over time with a sliding window: the same numbers in one call and in a stream of chunks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import MLP
from encoders.layers.rotary import rotary_table, rotate, rotate_halves
from encoders.layers.streaming import Stream

__all__ = ["CausalAttention", "CausalBlock", "CausalTransformer", "Window", "windows"]

Rotary = Literal["pairs", "halves"]


class Window(NamedTuple):
    """A run of queries and the keys that any of them sees; `mask` (queries, keys) is None where causality says all."""

    queries: slice
    keys: slice
    mask: Tensor | None


def windows(count: int, past: int, context: int, device: torch.device | None = None) -> list[Window]:
    """Cut attention to the last `context` positions into runs, so that memory grows linearly with the length.

    Args:
        count: new positions, each a query and a key.
        past: positions before them whose keys are at hand; more than context - 1 are of no use.
        context: positions that a query sees, itself included.
        device: of the masks.

    Returns:
        Runs of at most `context` queries. Keys count from the first of the past.
    """
    runs = []
    for start in range(0, count, context):
        end = min(start + context, count)
        first = max(past + start - context + 1, 0)
        rows, columns = end - start, past + end - first
        if rows == columns:
            mask = None  # a plain triangle: nothing lies before, and nothing is out of sight
        else:
            age = torch.arange(columns - rows, columns, device=device)[:, None] - torch.arange(columns, device=device)
            mask = (age >= 0) & (age < context)
        runs.append(Window(slice(start, end), slice(first, past + end), mask))
    return runs


class CausalAttention(nn.Module):
    """Multi-head self-attention without biases to the last positions, queries and keys rotated by their place.

    Args:
        width: W, a multiple of `heads`.
        heads: number of heads.
        rotary: which channels of a head turn together: neighbouring `pairs`, or equal places of its two `halves`.
    """

    def __init__(self, width: int, heads: int, rotary: Rotary = "pairs") -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"heads of an even width are needed, got width={width}, heads={heads}")
        if rotary not in ("pairs", "halves"):
            raise ValueError(f"rotary is 'pairs' or 'halves', got {rotary!r}")
        self.heads = heads
        self.turn = rotate if rotary == "pairs" else rotate_halves
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, table: Tensor, runs: list[Window], context: int, stream: Stream | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, L, W), new positions.
            table: (2, L, W / heads / 2), `rotary_table` of their absolute places.
            runs: `windows(L, past, context)`, past being the positions that the stream holds.
            context: positions that a query sees, itself included.
            stream: remembers keys and values of the last context - 1 positions.

        Returns:
            (B, L, W).
        """
        qk, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).split([2, 1])
        q, k = self.turn(qk, table)
        v = v[0]
        if stream is not None:
            held = stream.get(self)
            if held is not None:
                k, v = torch.cat([held[0], k], dim=2), torch.cat([held[1], v], dim=2)
            stream.put(self, (_last(k, context - 1), _last(v, context - 1)))
        outputs = [
            F.scaled_dot_product_attention(
                q[:, :, run.queries], k[:, :, run.keys], v[:, :, run.keys], run.mask, is_causal=run.mask is None
            )
            for run in runs
        ]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


def _last(x: Tensor, count: int) -> Tensor:
    """The last positions of (B, H, L, D); copied where a view would keep a much longer tensor alive."""
    surplus = max(x.shape[2] - count, 0)
    return x[:, :, surplus:].clone() if surplus > count else x[:, :, surplus:]


class CausalBlock(nn.Module):
    """Pre-norm causal attention and MLP without biases, each scaled per channel where it is added (LayerScale)."""

    def __init__(self, width: int, heads: int, hidden: int, scale: float, rotary: Rotary = "pairs") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads, rotary)
        self.gamma1 = nn.Parameter(torch.full((width,), scale))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, bias=False)
        self.gamma2 = nn.Parameter(torch.full((width,), scale))

    def forward(
        self, x: Tensor, table: Tensor, runs: list[Window], context: int, stream: Stream | None = None
    ) -> Tensor:
        """(B, L, W) -> (B, L, W); arguments as in `CausalAttention`."""
        x = torch.addcmul(x, self.gamma1, self.attn(self.norm1(x), table, runs, context, stream))
        return torch.addcmul(x, self.gamma2, self.mlp(self.norm2(x)))


class CausalTransformer(nn.Module):
    """The streamable transformer of Mimi (arXiv 2410.00037, Sec. 3.3.1): RoPE, LayerScale, attention to the near past.

    A position sees itself and the context - 1 before it, in every layer, however the signal is cut into chunks.

    Args:
        width: W.
        depth: blocks.
        heads: of a block.
        hidden: width of the MLPs.
        context: positions that one sees in a layer, itself included.
        layer_scale: start of the per-channel scales (LayerScale, arXiv 2103.17239).
        theta: longest wavelength of the rotation over 2 pi.
        rotary: layout of the rotation, see `CausalAttention`.

    Attributes:
        reach: positions before one that its result depends on, through all layers.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        context: int = 250,
        *,
        layer_scale: float = 0.01,
        theta: float = 10000.0,
        rotary: Rotary = "pairs",
    ) -> None:
        super().__init__()
        if depth < 1 or context < 1:
            raise ValueError(f"depth and context must be at least 1, got depth={depth}, context={context}")
        self.width = width
        self.context = context
        self.theta = theta
        self.head_dim = width // heads
        self.reach = depth * (context - 1)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, hidden, layer_scale, rotary) for _ in range(depth))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """(B, L, W) -> (B, L, W), any L; with a stream, x follows what the stream has seen."""
        count = x.shape[1]
        if count == 0:
            return x
        place = 0 if stream is None else stream.get(self) or 0
        if stream is not None:
            stream.put(self, place + count)
        table = rotary_table(torch.arange(place, place + count)[:, None], self.head_dim, self.theta).to(x.device)
        runs = windows(count, min(place, self.context - 1), self.context, x.device)
        for block in self.blocks:
            x = block(x, table, runs, self.context, stream)
        return x
