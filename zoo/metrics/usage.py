"""Statistics of codes over a whole epoch and all ranks, as a torchmetrics metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from zoo.metrics.codes import check_range, entropy_of, usage_of

__all__ = ["CodeStatistics"]

LARGEST_DENSE = 2**24
_PENDING = 2**16


class CodeStatistics(Metric):
    """Usage, perplexity and entropy of the codes seen since the last reset, exact whatever the batches and ranks.

    Integer counts are added up, never ratios of batches. A codebook of up to 2**24 entries has a count for each, 8
    bytes an entry on the metric's device and on every rank. A larger one has 16 bytes for each *distinct* code seen so
    far (up to twice that between two merges), which the ranks exchange at `compute`: as exact, and at worst as large as
    the epoch.

    Args:
        codebook_sizes: entries of each of the Q codebooks.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises:
        ValueError: no codebook, or one without entries.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor
    codebook_sizes: tuple[int, ...]

    def __init__(self, codebook_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(
                f"CodeStatistics expects codebook_sizes of at least 1 each, got {list(codebook_sizes)}; "
                "continuous latents have no codes to count"
            )
        dense = [size if size <= LARGEST_DENSE else 0 for size in self.codebook_sizes]
        self._starts = list(accumulate(dense, initial=0))
        self._sparse = [book for book, size in enumerate(dense) if size == 0]
        self.add_state("counts", torch.zeros(self._starts[-1], dtype=torch.int64), dist_reduce_fx="sum")
        for book in self._sparse:
            self.add_state(_state(book), [], dist_reduce_fx="cat")
        self._open()

    def update(self, indices: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            indices: (B, N, Q) int64.
            mask: (B, N) bool, False for padding, which is not counted.
            lengths: (B,) int64, valid positions of each item from the front, in place of a mask (`Tokens.lengths`).

        Raises:
            ValueError: wrong shapes, both mask and lengths, or an index outside its codebook.
        """
        rows = self._rows(indices.detach(), mask, lengths).to(self.counts.device)
        dense = []
        for book, size in enumerate(self.codebook_sizes):
            column = rows[:, book]
            check_range(column, size)
            if book in self._sparse:
                self._add(_state(book), column)
            else:
                dense.append(column + self._starts[book])
        if dense:
            self.counts += torch.bincount(torch.cat(dense), minlength=len(self.counts))

    def compute(self) -> dict[str, Any]:
        """What the codes of all ranks say.

        Returns:
            `positions`: () int64, positions counted. `usage`, share of the entries that occur, in [0, 1]; `entropy`,
            bits a code carries, in [0, log2(size)]; `perplexity`, 2**entropy, in [1, size]: () float64 averaged over
            codebooks, and as `codebook_usage`, `codebook_entropy` and `codebook_perplexity` Q of them. All are 0 where
            nothing was counted.
        """
        counts = [self._counts_of(book) for book in range(len(self.codebook_sizes))]
        positions = counts[0].sum()
        usage = [usage_of(part, size) for part, size in zip(counts, self.codebook_sizes, strict=True)]
        nats = [entropy_of(part) for part in counts]
        found = {
            "usage": usage,
            "entropy": [entropy / math.log(2) for entropy in nats],
            "perplexity": [entropy.exp() * (positions > 0) for entropy in nats],
        }
        means = {name: torch.stack(values).mean() for name, values in found.items()}
        return {"positions": positions, **means, **{f"codebook_{name}": tuple(part) for name, part in found.items()}}

    def reset(self) -> None:
        """Forget everything counted."""
        super().reset()
        self._open()

    def _open(self) -> None:
        """Start the lists of large codebooks with no rows: an empty list would be synchronised as float32."""
        for book in self._sparse:
            getattr(self, _state(book)).append(torch.zeros(0, 2, dtype=torch.int64, device=self.counts.device))

    def _rows(self, indices: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        books = len(self.codebook_sizes)
        if indices.ndim != 3 or indices.shape[-1] != books or indices.is_floating_point():
            raise ValueError(f"expected integer indices (B, N, {books}), got {indices.dtype} {tuple(indices.shape)}")
        if mask is not None and lengths is not None:
            raise ValueError("expected a mask or lengths, got both; pass one of them")
        if lengths is not None:
            if lengths.shape != indices.shape[:1]:
                raise ValueError(f"expected lengths {tuple(indices.shape[:1])}, got {tuple(lengths.shape)}")
            mask = torch.arange(indices.shape[1], device=indices.device) < lengths[:, None]
        if mask is None:
            return indices.long().flatten(0, 1)
        if mask.shape != indices.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"expected a mask of bool {tuple(indices.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )
        return indices.long()[mask]

    def _add(self, state: str, codes: Tensor) -> None:
        rows = getattr(self, state)
        rows.append(torch.stack(codes.unique(return_counts=True), dim=1))
        if sum(len(part) for part in rows[1:]) >= max(len(rows[0]), _PENDING):
            setattr(self, state, [_merged(rows)])

    def _counts_of(self, book: int) -> Tensor:
        if book in self._sparse:
            return _merged(getattr(self, _state(book)))[:, 1]
        return self.counts[self._starts[book] : self._starts[book + 1]]


def _state(book: int) -> str:
    return f"rows_{book}"


def _merged(rows: Tensor | list[Tensor]) -> Tensor:
    """Rows (code, count), several for a code, to one for each code (U, 2)."""
    codes, counts = dim_zero_cat(rows).unbind(1)
    distinct, place = codes.unique(return_inverse=True)
    return torch.stack((distinct, torch.zeros_like(distinct).index_add_(0, place, counts)), dim=1)
