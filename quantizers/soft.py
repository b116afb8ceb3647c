"""Quantizers whose gradient runs through a softmax over all codes, without the N x K probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .base import Quantizer

__all__ = ["SoftQuantizer", "expected_codes", "in_blocks"]

_BLOCK = 2**24  # 64 MiB of logits


class SoftQuantizer(Quantizer):
    """Base of quantizers whose gradient runs through a softmax over all codes, in place of a general estimator.

    Their `estimator` is "straight_through", which names that gradient, or "none", with which it stops short of z.
    """

    _estimator = "straight_through"

    @property
    def estimator(self) -> str:
        """ "straight_through" or "none"."""
        return self._estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        if self._check_estimator(name) == "rotation":
            raise ValueError(
                f"{type(self).__name__} has its own gradient through a softmax over codes, got estimator='rotation'; "
                "use 'straight_through' for that gradient, or 'none'"
            )
        self._estimator = name


def in_blocks(
    function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, size: int, *, random: bool = False
) -> tuple[Tensor, ...]:
    """Concatenate function(rows) over blocks of rows of x, each computed again for its gradient.

    Args:
        function: (R, D) to tensors of R rows each; at most 2**24 of the R x `size` numbers it needs exist at a time.
        x: (N, D).
        size: numbers a row needs, K.
        random: function draws random numbers, which must be the same ones when it is computed again.
    """
    rows = max(_BLOCK // size, 1)
    if len(x) <= rows:
        return function(x)
    blocks = [checkpoint(function, part, use_reentrant=False, preserve_rng_state=random) for part in x.split(rows)]
    return tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))


def expected_codes(logits: Callable[[Tensor], Tensor], x: Tensor, codebook: Tensor) -> Tensor:
    """softmax(logits(x)) @ sg[codebook]: (N, D) averages whose gradient reaches x and the codes through the logits.

    Args:
        logits: (R, D) vectors to (R, K).
        x: (N, D) vectors.
        codebook: (K, D) codes.
    """
    fixed = codebook.detach()

    def block(part: Tensor) -> tuple[Tensor]:
        p = logits(part).softmax(-1)
        with torch.autocast(p.device.type, enabled=False):
            return (p @ fixed,)

    return in_blocks(block, x, len(codebook))[0]
