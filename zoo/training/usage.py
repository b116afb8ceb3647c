"""How much of its codebooks a tokenizer uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["CodeUsage"]

LARGEST = 1 << 20


class CodeUsage:
    """Histogram of codes between two reports, one per codebook.

    Codebooks with more than 2**20 entries are not counted.

    Args:
        sizes: entries of each codebook.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self._counts: dict[int, Tensor] = {}

    def add(self, indices: Tensor) -> None:
        """Count a batch (B, N, Q) int64."""
        for book, size in enumerate(self.sizes):
            if size <= LARGEST:
                counts = torch.bincount(indices[..., book].detach().flatten(), minlength=size)
                self._counts[book] = self._counts[book] + counts if book in self._counts else counts

    def collect(self, strategy: Any) -> dict[str, float]:
        """`usage` in [0, 1] and `perplexity` (entries), averaged over codebooks and summed over ranks; then reset."""
        if not self._counts:
            return {}
        used, perplexity = [], []
        for counts in self._counts.values():
            total = strategy.reduce(counts.double(), reduce_op="sum")
            share = total / total.sum()
            used.append(float((total > 0).double().mean()))
            perplexity.append(float(torch.special.entr(share).sum().exp()))
        self._counts = {}
        return {"usage": sum(used) / len(used), "perplexity": sum(perplexity) / len(perplexity)}
