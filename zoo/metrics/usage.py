"""Statistics of codes over a whole epoch and all ranks, as a torchmetrics metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.codes import check_range, coverage, entropy_of, miller_madow, usage_of
from zoo.metrics.strands import strands
from zoo.metrics.tables import TableMetric
from zoo.tokens import Tokens

__all__ = ["CodeStatistics"]

LARGEST_DENSE = 2**24


class CodeStatistics(TableMetric):
    """Usage, perplexity and entropy of the codes seen since the last reset, exact whatever the batches and ranks.

    Integer counts are added up, never ratios of batches. A codebook of up to 2**24 entries has a count for each, 8
    bytes an entry on the metric's device and on every rank. A larger one has 16 bytes for each *distinct* code seen so
    far (up to twice that between two merges), which the ranks exchange at `compute`: as exact, and at worst as large as
    the epoch.

    Usage is the share of entries that occur at all, as TiTok and SEED-Voken report it. VAR's number of that name is
    another: entries whose moving average of hits is at least 0.08 of a uniform share.

    Args:
        codebook_sizes: entries of each of the Q codebooks; `zoo.metrics.alphabets(spec)` for scales with codebooks of
            their own.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises:
        ValueError: no codebook, or one without entries.
    """

    counts: Tensor
    positions: Tensor
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
        self.add_state("positions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for book in self._sparse:
            self.add_table(_state(book), 1)

    def update(self, codes: Tensor | Tokens, mask: Tensor | None = None, lengths: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            codes: `Tokens`, whose padding is not counted and whose scales are kept apart where they have codebooks of
                their own; or (B, N, Q) int64.
            mask: (B, N) bool, False for padding, which is not counted; for indices only.
            lengths: (B,) int64, valid positions of each item from the front, in place of a mask (`Tokens.lengths`).

        Raises:
            ValueError: wrong shapes, both mask and lengths, or an index outside its codebook.
        """
        if isinstance(codes, Tokens):
            parts = [(strand.book, strand.flat) for strand in strands(codes, self.codebook_sizes)]
            positions = codes.mask.sum()
        else:
            rows = self._rows(codes.detach(), mask, lengths)
            parts = list(enumerate(rows.unbind(1)))
            positions = torch.tensor(len(rows))
            for book, column in parts:
                check_range(column, self.codebook_sizes[book])
        self.positions += positions.to(self.positions.device)
        dense = []
        for book, column in parts:
            if book in self._sparse:
                self.count(_state(book), column)
            else:
                dense.append(column.to(self.counts.device) + self._starts[book])
        if dense:
            self.counts += torch.bincount(torch.cat(dense), minlength=len(self.counts))

    def compute(self) -> dict[str, Any]:
        """What the codes of all ranks say.

        Returns:
            `positions`: () int64, positions counted, with which every entropy belongs together. `usage`, share of the
            entries that occur, in [0, 1]; `entropy`, bits a code carries, in [0, log2(size)]; `entropy_corrected`, the
            same after `miller_madow`; `coverage`, how much of the codes' distribution was seen at all, in [0, 1];
            `perplexity`, 2**entropy, in [1, size]: () float64 averaged over the codebooks that were used at all, and as
            `codebook_usage`, `codebook_entropy` and so on, one for each. All are 0 where nothing was counted.
        """
        counts = [self._counts_of(book) for book in range(len(self.codebook_sizes))]
        sized = list(zip(counts, self.codebook_sizes, strict=True))
        nats = [entropy_of(part) for part in counts]
        found = {
            "usage": [usage_of(part, size) for part, size in sized],
            "entropy": [entropy / math.log(2) for entropy in nats],
            "entropy_corrected": [miller_madow(part, size) for part, size in sized],
            "coverage": [coverage(part) for part in counts],
            "perplexity": [entropy.exp() * bool(part.sum() > 0) for part, entropy in zip(counts, nats, strict=True)],
        }
        seen = torch.stack([part.sum() > 0 for part in counts])
        means = {name: (torch.stack(values) * seen).sum() / seen.sum().clamp_min(1) for name, values in found.items()}
        kept = {f"codebook_{name}": tuple(part) for name, part in found.items()}
        return {"positions": self.positions.clone(), **means, **kept}

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

    def _counts_of(self, book: int) -> Tensor:
        if book in self._sparse:
            return self.table(_state(book))[:, 1]
        return self.counts[self._starts[book] : self._starts[book + 1]]


def _state(book: int) -> str:
    return f"rows_{book}"
