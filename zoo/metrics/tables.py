"""Metrics that count rows of integers: exact whatever the batches and ranks, as large as what is distinct."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

__all__ = ["TableMetric", "by_book", "mean_of", "merged"]

PENDING = 2**16


class TableMetric(Metric):
    """A metric whose states are tables of counts: rows (a, b, ..., count), one for each combination seen.

    A row of w integers takes 8 (w + 1) bytes, up to twice that between two merges; ranks exchange tables at `compute`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._widths: dict[str, int] = {}

    def add_table(self, name: str, width: int) -> None:
        """A new table of rows of `width` integers."""
        self._widths[name] = width
        self.add_state(name, [], dist_reduce_fx="cat")
        self._open(name)

    def count(self, name: str, *columns: Tensor) -> None:
        """Add rows, given as columns (M,) int64, or () for one value in all rows."""
        device = getattr(self, name)[0].device
        parts = torch.broadcast_tensors(*columns)
        found = torch.stack([*parts, torch.ones_like(parts[0])], dim=1).to(device)
        rows = getattr(self, name)
        rows.append(merged(found))
        if sum(len(part) for part in rows[1:]) >= max(len(rows[0]), PENDING):
            setattr(self, name, [merged(torch.cat(rows))])

    def table(self, name: str) -> Tensor:
        """A table of all ranks (U, width + 1) int64, its rows distinct and in rising order."""
        return merged(dim_zero_cat(getattr(self, name)))

    def reset(self) -> None:
        """Forget everything counted."""
        super().reset()
        for name in self._widths:
            self._open(name)

    def _open(self, name: str) -> None:
        """Start a table with no rows: an empty list would be synchronised as float32."""
        getattr(self, name).append(torch.zeros(0, self._widths[name] + 1, dtype=torch.int64, device=self.device))


def merged(rows: Tensor) -> Tensor:
    """Rows (M, w + 1) int64 that end in a count, several for a combination, to one for each (U, w + 1), rising."""
    for column in reversed(range(rows.shape[1] - 1)):
        rows = rows[rows[:, column].argsort(stable=True)]
    if len(rows) < 2:
        return rows
    new = torch.cat([rows.new_ones(1, dtype=torch.bool), (rows[1:, :-1] != rows[:-1, :-1]).any(1)])
    place = new.cumsum(0) - 1
    first = rows[new]
    counts = torch.zeros_like(first[:, -1]).index_add_(0, place, rows[:, -1])
    return torch.cat([first[:, :-1], counts[:, None]], dim=1)


def by_book(table: Tensor, books: int) -> Iterator[Tensor]:
    """The rows of each of `books` codebooks, whose number is the first column, without that column."""
    ends = torch.searchsorted(table[:, 0].contiguous(), torch.arange(books + 1, device=table.device)).tolist()
    for start, stop in pairwise(ends):
        yield table[start:stop, 1:]


def mean_of(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else float("nan")
