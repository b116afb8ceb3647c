"""Steps of one element with as few operations as there can be, on weights laid out for them.

At small sizes a step costs what its calls cost and how its weights lie in memory, not what it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.generators.layers.attention import EPS, Block, Transformer
from zoo.generators.layers.cache import KVCache

__all__ = ["Packed", "packed"]


class Weights(NamedTuple):
    """Those of a block, input channels first; the scales of norms are part of the layers behind them."""

    qkv: Tensor
    out: Tensor
    fc1: Tensor
    fc2: Tensor


class Packed:
    """A `Transformer` as it was when it was first called, for one element a step.

    On a CPU the wide layers are copied: products of few rows are a fifth faster there with input channels first.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self.weights: list[Weights] | None = None

    def fits(self, x: Tensor) -> bool:
        """Whether nothing but the weights is needed for x (B, L, W): no dropout, gradients or other precision."""
        of = self.transformer
        plain = not (of.training or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))
        return plain and x.shape[1] == 1 and x.dtype == of.norm.weight.dtype

    def __call__(self, x: Tensor, table: Tensor, cache: KVCache, start: int) -> Tensor:
        """(B, 1, W) -> (B, 1, W); see `Attention`."""
        of = self.transformer
        if self.weights is None:
            self.weights = [_laid_out(block) for block in of.blocks]
        batch, _, width = x.shape
        shape, end, half = (batch, 3, of.heads, of.head_dim), start + 1, of.head_dim // 2
        cosine, sine = table[:, 0].to(x.dtype)
        x = x[:, 0].clone()
        for block, layer in zip(self.weights, cache.layers, strict=True):
            keys, values = layer.unbind(0)
            fused = torch.mm(_normalized(x), block.qkv).view(shape)
            pair = fused[:, :2]
            query, key = torch.addcmul(pair * cosine, pair.roll(half, -1), sine).unbind(1)
            keys.select(2, start).copy_(key)
            values.select(2, start).copy_(fused.select(1, 2))
            seen, said = keys.narrow(2, 0, end), values.narrow(2, 0, end)
            mixed = F.scaled_dot_product_attention(query.unsqueeze(2), seen, said)
            x.addmm_(mixed.reshape(batch, width), block.out)
            gate, value = torch.mm(_normalized(x), block.fc1).chunk(2, -1)
            x.addmm_(F.silu(gate).mul_(value), block.fc2)
        return F.rms_norm(x, (width,), of.norm.weight, EPS)[:, None]


def _laid_out(block: nn.Module) -> Weights:
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    qkv = (attention.qkv.weight * block.attention_norm.weight).t()
    fc1 = (mlp.fc1.weight * block.mlp_norm.weight).t()
    if qkv.device.type == "cpu":
        qkv, fc1 = qkv.contiguous(), fc1.contiguous()
    return Weights(qkv, attention.out.weight.t(), fc1, mlp.fc2.weight.t())


def _normalized(x: Tensor) -> Tensor:
    """Rows (B, W) divided by their root mean square."""
    if x.device.type == "cpu" and x.dtype == torch.float32:  # there F.rms_norm is a dozen calls
        return x * torch.rsqrt(torch.mean(x * x, -1, keepdim=True).add_(EPS))
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


@contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Every `Transformer` in a module takes steps of one element by `Packed`, until weights may change again."""
    inside = [part for part in module.modules() if isinstance(part, Transformer)]
    before = [part.packed for part in inside]
    try:
        for part in inside:
            part.packed = part.packed or Packed(part)
        yield
    finally:
        for part, own in zip(inside, before, strict=True):
            part.packed = own
