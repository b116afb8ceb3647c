"""What codes tell of each other and of their places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.codes import entropy_of, miller_madow
from zoo.metrics.strands import Strand, strands
from zoo.metrics.tables import TableMetric, by_book, mean_of, merged
from zoo.tokens import Tokens

__all__ = ["CodePairs", "CodePositions"]

SHUFFLES = 3


class CodePairs(TableMetric):
    """Which codes stand side by side: pointwise mutual information of neighbours, and its mean.

    Neighbours follow each other along N, or also stand one below the other where the codes are a grid.

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        downsample: pixels per token along each axis (`TokenizerSpec.downsample`), which tells the grid's width for
            codes in raster order; None for sequences.
        **kwargs: of `torchmetrics.Metric`.
    """

    def __init__(self, codebook_sizes: Sequence[int], *, downsample: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codebook_sizes, self.downsample = tuple(codebook_sizes), downsample
        self.add_table("pairs", 3)

    def update(self, tokens: Tokens) -> None:
        """Count the pairs of a batch.

        Raises:
            ValueError: codes of other codebooks.
        """
        width = self._width(tokens)
        for strand in strands(tokens, self.codebook_sizes):
            book = torch.tensor(strand.book, device=strand.codes.device)
            for left, right in _neighbours(strand, width):
                self.count("pairs", book, left, right)

    def top(self, limit: int = 20, *, least: int = 5) -> list[dict[str, Any]]:
        """The pairs of most pointwise mutual information: codebook, codes, count of meetings, log2 p(a, b) / p(a) p(b).

        Args:
            least: meetings that a pair needs to be listed; of rare pairs the number says nothing.
        """
        found = []
        for book, part in enumerate(by_book(self.table("pairs"), len(self.codebook_sizes))):
            often = part[:, 2] >= least
            for row, value in zip(part[often].tolist(), _pmi(part)[often].tolist(), strict=True):
                found.append({"codebook": book, "codes": row[:2], "count": row[2], "pmi": value})
        return sorted(found, key=lambda pair: (-pair["pmi"], -pair["count"], pair["codebook"], pair["codes"]))[:limit]

    def compute(self) -> dict[str, Any]:
        """Means over the codebooks that were seen.

        Returns:
            `information`: bits that a code tells of its neighbour (mean pointwise mutual information) beyond what it
            seems to tell of one drawn by chance, at least 0; `plugin`: without that correction; `pairs`: how
            many were counted; `types`: distinct ones; `top`: see there.
        """
        corrected, plugin = [], []
        table = self.table("pairs")
        for part in by_book(table, len(self.codebook_sizes)):
            if len(part):
                plain, better = _information(part)
                plugin.append(plain)
                corrected.append(better)
        return {
            "information": mean_of(corrected),
            "plugin": mean_of(plugin),
            "pairs": int(table[:, -1].sum()),
            "types": len(table),
            "top": self.top(),
        }

    def _width(self, tokens: Tokens) -> int | None:
        if self.downsample is None or tokens.order != "raster" or tokens.size is None or tokens.size.shape[1] != 2:
            return None
        rows, columns = (-(-int(side) // self.downsample) for side in tokens.size[0].tolist())
        return columns if rows * columns == tokens.num_tokens else None


class CodePositions(TableMetric):
    """What a code's place says of it: entropy at every position, and mutual information of code and position.

    Of nested codes (`order` "coarse_to_fine") the first positions are told apart from the last by it; of a grid whose
    codes mean the same everywhere it is about 0. For items whose n-th positions have something in common: not sound.

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        **kwargs: of `torchmetrics.Metric`.
    """

    def __init__(self, codebook_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codebook_sizes = tuple(codebook_sizes)
        self.add_table("places", 3)

    def update(self, tokens: Tokens) -> None:
        """Count a batch.

        Raises:
            ValueError: codes of other codebooks.
        """
        for strand in strands(tokens, self.codebook_sizes):
            book = torch.tensor(strand.book, device=strand.codes.device)
            self.count("places", book, strand.flat_places, strand.flat)

    def entropies(self, book: int = 0, *, corrected: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Of one codebook: positions (P,), bits of the codes there (P,) float64, and how many were counted (P,)."""
        part = list(by_book(self.table("places"), len(self.codebook_sizes)))[book]
        places, sizes = part[:, 0].unique_consecutive(return_counts=True)
        groups = part[:, 2].split(sizes.tolist()) if len(part) else ()
        size = self.codebook_sizes[book]
        bits = [miller_madow(group, size) if corrected else entropy_of(group) / math.log(2) for group in groups]
        totals = [group.sum() for group in groups]
        empty = torch.zeros(0, dtype=torch.float64)
        return places, torch.stack(bits) if bits else empty, torch.stack(totals) if totals else empty.long()

    def compute(self) -> dict[str, Any]:
        """Means over the codebooks that were seen.

        Returns:
            `information`: bits that a position tells of its code beyond what it seems to tell of codes in shuffled
            order, at least 0; `plugin`: without that correction; `trend`: Spearman's correlation of position and
            entropy there, -1 where it falls from first to last (NaN for fewer than 3 positions); `first` and `last`:
            entropies of the first and the last position, bits; `positions`: codes counted; `entropies`: for each
            codebook, bits at each position.
        """
        rows: dict[str, list[float]] = {name: [] for name in ("information", "plugin", "trend", "first", "last")}
        table = self.table("places")
        for book, part in enumerate(by_book(table, len(self.codebook_sizes))):
            if not len(part):
                continue
            plain, corrected = _information(part)
            places, bits, _ = self.entropies(book)
            rows["plugin"].append(plain)
            rows["information"].append(corrected)
            rows["trend"].append(rank_correlation(places.double(), bits) if len(bits) > 2 else float("nan"))
            rows["first"].append(float(bits[0]))
            rows["last"].append(float(bits[-1]))
        return {
            **{name: mean_of(values) for name, values in rows.items()},
            "positions": int(table[:, -1].sum()),
            "entropies": [self.entropies(book)[1].tolist() for book in range(len(self.codebook_sizes))],
        }


def _neighbours(strand: Strand, width: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of codes (M,), (M,): next to each other, and below each other in a grid of `width` columns."""
    codes, mask = strand.codes, strand.mask
    if width is not None:
        codes, mask = codes.unflatten(1, (-1, width)), mask.unflatten(1, (-1, width))
        valid = mask[:, 1:] & mask[:, :-1]
        yield codes[:, :-1][valid], codes[:, 1:][valid]
    valid = mask[..., 1:] & mask[..., :-1]
    yield codes[..., :-1][valid], codes[..., 1:][valid]


def _margins(part: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of rows (a, b, count): counts of a and of b, and the place of each row in them."""
    found = []
    for column in (0, 1):
        values, place = part[:, column].unique(return_inverse=True)
        found += [torch.zeros_like(values).index_add_(0, place, part[:, 2]), place]
    return found[0], found[2], found[1], found[3]


def _pmi(part: Tensor) -> Tensor:
    """log2 p(a, b) / (p(a) p(b)) of rows (a, b, count)."""
    first, second, of_first, of_second = _margins(part)
    total, counts = part[:, 2].sum().double(), part[:, 2].double()
    return (counts * total / (first[of_first].double() * second[of_second].double())).log2()


def _information(part: Tensor) -> tuple[float, float]:
    """Mutual information of rows (a, b, count) in bits: by counting, and less what shuffled partners show.

    Where pairs are few for the codes that there are, counting finds information in chance; so it does after shuffling,
    with the same frequencies. The mean of `SHUFFLES` fixed shuffles is taken off.
    """
    first, second, _, _ = _margins(part)
    apart = float(entropy_of(first) + entropy_of(second))
    left, right = (part[:, column].repeat_interleave(part[:, 2]).cpu() for column in (0, 1))
    generator, chance = torch.Generator().manual_seed(0), 0.0
    for _ in range(SHUFFLES):
        pairs = torch.stack([left, right[torch.randperm(len(right), generator=generator)], torch.ones_like(left)], 1)
        chance += (apart - float(entropy_of(merged(pairs)[:, 2]))) / SHUFFLES
    plain = apart - float(entropy_of(part[:, 2]))
    return max(0.0, plain) / math.log(2), max(0.0, plain - chance) / math.log(2)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Correlation of ranks, equal values sharing the mean of theirs; NaN where one of them never changes."""

    def ranks(values: Tensor) -> Tensor:
        _, place, counts = values.unique(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).double()
        return (ends - (counts - 1) / 2)[place]

    return float(torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1])
