"""Stochastic depth (arXiv 1603.09382)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["drop_path"]


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """What a residual branch adds, (B, ...): nothing for a share `rate` of the items, the others made up for it."""
    if not training or rate == 0:
        return x
    kept = x.new_empty(len(x), *(1,) * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * (kept / (1 - rate))
