"""Codes read as a language: n-grams and innovation ("Analyzing the Language of Visual Tokens", arXiv 2411.05001)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.codes import coverage, entropy_of, miller_madow
from zoo.metrics.strands import strands
from zoo.metrics.tables import TableMetric, by_book, mean_of, merged
from zoo.metrics.zipf import RANK_LEAST, zipf_exponent, zipf_tail
from zoo.tokens import Tokens

__all__ = ["CodeInnovation", "CodeNgrams"]

LEAST_COVERAGE = 0.5


class CodeNgrams(TableMetric):
    """Rank and frequency of runs of 1 to n codes: Zipf's exponent, and entropies H1 to Hn.

    A run lies within an item, a codebook and a scale, along N. Each codebook has numbers of its own, of which means are
    given. Runs of 3 and more are nearly all distinct in sets of photographs: memory grows with the set, and their
    entropies cannot be known. They are NaN where less than half of a distribution was seen (`coverage`).

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        orders: the longest run, n.
        least: a type must be seen so often to have a rank (`zipf_exponent`).
        **kwargs: of `torchmetrics.Metric`.
    """

    def __init__(
        self, codebook_sizes: Sequence[int], *, orders: int = 4, least: int = RANK_LEAST, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if orders < 1:
            raise ValueError(f"orders must be at least 1, got {orders}")
        self.codebook_sizes, self.orders, self.least = tuple(codebook_sizes), orders, least
        for order in range(1, orders + 1):
            self.add_table(f"runs_{order}", order + 1)

    def update(self, tokens: Tokens) -> None:
        """Count the runs of a batch.

        Raises:
            ValueError: codes of other codebooks.
        """
        for strand in strands(tokens, self.codebook_sizes):
            book = torch.tensor(strand.book, device=strand.codes.device)
            for order in range(1, min(self.orders, strand.codes.shape[1]) + 1):
                runs = strand.codes.unfold(1, order, 1)
                valid = strand.mask.unfold(1, order, 1).all(-1)
                self.count(f"runs_{order}", book, *runs[valid].unbind(1))

    def ranked(self, order: int, book: int = 0) -> tuple[Tensor, Tensor]:
        """The runs (U, order) of a length and how often each came (U,), the most frequent first."""
        rows = list(by_book(self.table(f"runs_{order}"), len(self.codebook_sizes)))[book]
        rows = rows[rows[:, -1].argsort(descending=True, stable=True)]
        return rows[:, :-1], rows[:, -1]

    def compute(self) -> dict[str, Any]:
        """Means over the codebooks that were seen, () float64, for n = 1 to `orders`.

        Returns:
            `zipf_n`: exponent of rank and frequency; `tail_n`: that of the tail of the counts; `h_n`: H_n, bits of a
            run of n, corrected by `miller_madow`, and `plugin_n` uncorrected; `rate_n`: H_n - H_(n-1), bits of a code
            when n - 1 before it are known; `types_n` and `positions_n`: distinct runs, and all, summed over codebooks;
            `ranks_n`: for each codebook up to 30 pairs of rank and count, spread evenly on a log scale. Fits are NaN
            where too few types are frequent, entropies where `coverage_n` is below a half.
        """
        found: dict[str, Any] = {}
        before = [0.0] * len(self.codebook_sizes)
        for order in range(1, self.orders + 1):
            rows: dict[str, list[float]] = {name: [] for name in ("zipf", "tail", "h", "plugin", "rate", "coverage")}
            types = positions = 0
            ranks: list[list[tuple[int, int]]] = []
            for book, part in enumerate(by_book(self.table(f"runs_{order}"), len(self.codebook_sizes))):
                counts = part[:, -1]
                ranks.append(_ranks(counts))
                if not len(counts):
                    continue
                seen = float(coverage(counts))
                bits = float(miller_madow(counts, self.codebook_sizes[book] if order == 1 else None))
                bits = bits if seen >= LEAST_COVERAGE else float("nan")
                rows["coverage"].append(seen)
                rows["zipf"].append(zipf_exponent(counts, least=self.least))
                rows["tail"].append(zipf_tail(counts).exponent)
                rows["h"].append(bits)
                rows["plugin"].append(float(entropy_of(counts)) / math.log(2))
                rows["rate"].append(bits - before[book])
                before[book] = bits
                types, positions = types + len(counts), positions + int(counts.sum())
            found |= {f"{name}_{order}": mean_of(values) for name, values in rows.items()}
            found |= {f"types_{order}": types, f"positions_{order}": positions, f"ranks_{order}": ranks}
        return found


class CodeInnovation(TableMetric):
    """How many new codes each further item brings, averaged over all orders in which the items could come.

    The mean over orders has a closed form, rarefaction (Hurlbert 1971): of M items, n hold
    sum over codes of 1 - C(M - m, n) / C(M, n) distinct ones, where m items have the code. So only the m are kept.

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        **kwargs: of `torchmetrics.Metric`.
    """

    items: Tensor

    def __init__(self, codebook_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codebook_sizes = tuple(codebook_sizes)
        self.add_table("holders", 2)
        self.add_state("items", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tokens: Tokens) -> None:
        """Note which codes each item of a batch has.

        Raises:
            ValueError: codes of other codebooks.
        """
        rows = []
        for strand in strands(tokens, self.codebook_sizes):
            items = torch.arange(len(tokens), device=strand.codes.device)[:, None].expand_as(strand.codes)[strand.mask]
            rows.append(
                torch.stack([torch.full_like(items, strand.book), items, strand.flat, torch.ones_like(items)], 1)
            )
        once = merged(torch.cat(rows))
        self.count("holders", once[:, 0], once[:, 2])
        self.items += len(tokens)

    def distinct(self, items: int) -> float:
        """Distinct codes in so many items, of all codebooks together; the mean over the choice of items."""
        holders, total = self.table("holders")[:, 2].double(), float(self.items)
        if not 0 <= items <= total:
            raise ValueError(f"expected 0 to {int(total)} items, got {items}")
        left = total - holders
        absent = _log_choose(left, items) - _log_choose(torch.tensor(total, dtype=torch.float64), items)
        return float((1 - torch.where(left >= items, absent, -torch.inf).exp()).sum())

    def curve(self) -> tuple[list[int], list[float]]:
        """Numbers of items, up to 30 spread evenly on a log scale, and the distinct codes in each (Heaps)."""
        total = int(self.items)
        counts = _spread(total)
        return counts, [self.distinct(count) for count in counts]

    def compute(self) -> dict[str, Any]:
        """What the curve says; NaN where there are too few items.

        Returns:
            `first`: codes in one item; `hundredth`: new ones that the hundredth item brings; `last`: new ones that the
            last of all brings; `share_100`: distinct codes in 100 items over those in all; `heaps`: slope of the curve
            in log-log coordinates, by least squares (Heaps' law: distinct ~ items^slope); `distinct`: in all; `items`;
            `curve`: pairs of both.
        """
        total = int(self.items)
        counts, values = self.curve()
        nothing = float("nan")
        many = total >= 100
        return {
            "first": self.distinct(1) if total else nothing,
            "hundredth": self.distinct(100) - self.distinct(99) if many else nothing,
            "last": self.distinct(total) - self.distinct(total - 1) if total else nothing,
            "share_100": self.distinct(100) / values[-1] if total > 100 else nothing,
            "heaps": _slope(counts, values) if len(counts) > 2 else nothing,
            "distinct": self.distinct(total) if total else 0.0,
            "items": total,
            "curve": list(zip(counts, values, strict=True)),
        }


def _spread(last: int, points: int = 30) -> list[int]:
    """Whole numbers from 1 to the last, evenly spread on a log scale; none for 0."""
    if last < 1:
        return []
    return sorted(set(torch.logspace(0, math.log10(last), points, dtype=torch.float64).round().long().tolist()))


def _ranks(counts: Tensor) -> list[tuple[int, int]]:
    ranked = counts.sort(descending=True).values
    return [(rank, int(ranked[rank - 1])) for rank in _spread(len(ranked))]


def _log_choose(total: Tensor, count: int) -> Tensor:
    return torch.lgamma(total + 1) - torch.lgamma((total - count).clamp_min(0) + 1) - math.lgamma(count + 1)


def _slope(across: Sequence[float], up: Sequence[float]) -> float:
    """Of the line of least squares in log-log coordinates."""
    x, y = torch.tensor(across, dtype=torch.float64).log(), torch.tensor(up, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())
