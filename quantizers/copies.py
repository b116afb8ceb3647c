"""Copies of one quantizer, for the quantizers made of several."""

from __future__ import annotations

import copy

from .base import Quantizer

__all__ = ["copies"]


def copies(quantizer: Quantizer, count: int) -> list[Quantizer]:
    """`count` quantizers built alike: the given one first, then copies that draw parameters of their own.

    Every submodule of a copy that has a `reset_parameters()` starts anew.

    Raises:
        ValueError: count < 1.
    """
    if count < 1:
        raise ValueError(f"copies of {type(quantizer).__name__} are counted from 1, got {count}")
    return [quantizer, *(_restarted(copy.deepcopy(quantizer)) for _ in range(count - 1))]


def _restarted(quantizer: Quantizer) -> Quantizer:
    for module in quantizer.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return quantizer
