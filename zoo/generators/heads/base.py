"""What heads have in common: ids that keep codebooks apart, a table of embeddings, a layer of logits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.fixed import Fixed
from zoo import streams
from zoo.generators.base import ABSENT, Vocabulary

__all__ = ["Head", "Pick", "Range"]

Pick = Callable[[Tensor], Tensor]  # logits (R, ..., K) -> ids (R, ...)


class Range(NamedTuple):
    """The ids of one codebook: `size` of them from `start` on, and whether an item may end in place of one."""

    start: int
    size: int
    ends: bool


class Head(nn.Module):
    """Codes (B, N, Q) as S slots of a sequence, each of which holds G cells that are drawn together.

    A cell is one code; cell n * Q + q has its place in a slot by the pattern of a subclass. Its id is the code, moved
    by an offset that keeps codebooks apart; one more id stands for a place without a code, and for the end of an item.
    Cells of a slot are drawn independently of each other.

    `connect` makes the parameters, once a vocabulary is known.

    Attributes:
        groups: slots that are drawn in one step, for every step; they sum to S.
        ahead: the input of a slot is its own code, of which the transformer says the next one; else the transformer
            says at a slot what belongs there, and inputs are made of what earlier steps drew.
        line: (S,) int64 position n of each slot.
    """

    groups: tuple[int, ...]
    ahead: bool = True
    line: Tensor

    def connect(self, vocabulary: Vocabulary, width: int) -> None:
        """Make the parameters of a head of a transformer of width W.

        Raises:
            ValueError: the vocabulary is none for this head.
        """
        raise NotImplementedError(f"{type(self).__name__} must define connect")

    def arrange(
        self,
        vocabulary: Vocabulary,
        width: int,
        pattern: Tensor,
        groups: Sequence[int],
        *,
        rows: int = 1,
        output_width: int | None = None,
    ) -> None:
        """Note the codes and how they are read; make the table and the layer of logits.

        Args:
            vocabulary, width: as for `connect`.
            pattern: (S * rows, G) int64 cells, -1 for empty places.
            groups: see the class.
            rows: of the pattern that make one slot.
            output_width: of what logits are made from; None for `width`.
        """
        self.vocabulary, self.width, self.groups = vocabulary, width, tuple(groups)
        self._starts = [0, *accumulate(rows * group for group in groups)]
        count, depth = vocabulary.num_tokens, vocabulary.depth
        whole = torch.ones(1, count, dtype=torch.bool, device="cpu")
        ranges = streams.Ranges(tuple(vocabulary.scales), vocabulary.distinct_scales)
        sizes = tuple(vocabulary.codebook_sizes)
        zeros = torch.zeros(1, count, depth, dtype=torch.int64, device="cpu")
        with torch.device("cpu"):
            offsets = streams.to_ids(zeros, whole, sizes, ranges, "flat", 0)[0]
        self.total = sum(sizes) * (len(ranges.scales) if ranges.distinct else 1)
        self.offsets, self.pattern = Fixed(lambda: offsets), Fixed(lambda: pattern)
        self.line = pattern[::rows].amax(1) // depth
        self._ranges = [
            [self._range(int(offsets[cell]), cell) if cell != ABSENT else None for cell in row]
            for row in pattern.tolist()
        ]
        self._places = self._grouped()
        self.embed_codes = nn.Embedding(self.total + 1, width)
        self.output = nn.Linear(output_width or width, self.total + vocabulary.flexible, bias=False)

    def _range(self, start: int, cell: int) -> Range:
        book = cell % self.vocabulary.depth
        return Range(start, self.vocabulary.codebook_sizes[book], self.vocabulary.flexible and book == 0)

    def _grouped(self) -> nn.ModuleList:
        """For each range of ids, (2, P) the slots and cells of the places that are in it."""
        found: dict[Range, list[tuple[int, int]]] = {}
        for slot, (cells, ranges) in enumerate(zip(self.pattern.value.tolist(), self._ranges, strict=True)):
            for cell, place in zip(cells, ranges, strict=True):
                if place is not None:
                    found.setdefault(place, []).append((slot, cell))
        self._books = list(found)
        return nn.ModuleList(Fixed(partial(_pairs, pairs)) for pairs in found.values())

    def ids(self, indices: Tensor) -> Tensor:
        """Codes (B, N, Q) -> ids (B, S, G)."""
        flat = indices.flatten(1)
        ids = torch.where(flat == ABSENT, self.total, flat + self.offsets(flat.device))
        return F.pad(ids, (0, 1), value=self.total)[:, self.pattern(flat.device)]

    def embed(self, indices: Tensor) -> Tensor:
        """Inputs (B, S, W) of all slots for known codes (B, N, Q)."""
        return self.embed_ids(self.ids(indices))

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Ids (B, n, G) of n slots -> (B, n, W), the sum over their cells."""
        return self.embed_codes(ids[..., 0]) if ids.shape[-1] == 1 else self.embed_codes(ids).sum(-2)

    def logits(self, hidden: Tensor, book: Range) -> Tensor:
        """(..., W) -> (..., size), and one more for the end where an item may end."""
        weight, stop = self.output.weight, book.start + book.size
        if book.ends and stop == self.total:
            return F.linear(hidden, weight[book.start :])
        logits = F.linear(hidden, weight[book.start : stop])
        return torch.cat([logits, F.linear(hidden, weight[self.total :])], -1) if book.ends else logits

    def targets(self, indices: Tensor) -> Tensor:
        """(B, N * Q) what every cell should say: codes, the size of its codebook for the end, -1 for nothing."""
        if not self.vocabulary.flexible:
            return indices.flatten(1)
        absent = indices[..., 0] == ABSENT
        first = absent & ~F.pad(absent[:, :-1], (1, 0))
        end = torch.where(first, self.vocabulary.codebook_sizes[0], indices[..., 0])
        return torch.cat([end[..., None], indices[..., 1:]], -1).flatten(1)

    def nll(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Negative log-likelihood (B, N, Q) float32 in nats of codes; NaN where there is none to score.

        That of the end of an item stands at its first absent position.

        Args:
            hidden: (B, S, W), what the transformer says of each slot.
            indices: (B, N, Q).
        """
        targets, spread = self.targets(indices), self.expand(hidden)
        losses = torch.full(targets.shape, torch.nan, device=hidden.device)
        for book, places in zip(self._books, self._places, strict=True):
            slots, cells = places(hidden.device)
            losses[:, cells] = score(self.logits(spread[:, slots], book), targets[:, cells])
        return losses.view(indices.shape)

    def expand(self, hidden: Tensor) -> Tensor:
        """What the transformer says (B, n, W) at the slots of the pattern: here the same."""
        return hidden

    def draw(self, hidden: Tensor, step: int, pick: Pick) -> Tensor:
        """Ids (R, n, G) of the slots of one step, whose hidden states are (R, n, W)."""
        hidden, first = self.expand(hidden), self._starts[step]
        books = self._ranges[first]
        if len(books) == 1 and books[0] is not None:
            return self._named(pick(self.logits(hidden, books[0])), books[0])[..., None]
        empty = torch.full(hidden.shape[:2], self.total, device=hidden.device)
        drawn = [empty if book is None else self._named(pick(self.logits(hidden, book)), book) for book in books]
        return torch.stack(drawn, dim=-1)

    def _named(self, codes: Tensor, book: Range) -> Tensor:
        """Codes -> ids; the end becomes the id of no code."""
        ids = codes + book.start if book.start else codes
        return torch.where(codes == book.size, self.total, ids) if book.ends else ids

    def feed(self, drawn: Sequence[Tensor]) -> Tensor:
        """Inputs (R, n, W) of the step after those that drew ids (R, n, G)."""
        return self.embed_ids(drawn[-1])

    def ended(self, drawn: Tensor) -> Tensor | None:
        """(R,) bool of the items that end in a step that drew (R, n, G); None if items cannot end."""
        return (drawn[:, :, 0] == self.total).any(1) if self.vocabulary.flexible else None

    def collect(self, drawn: Sequence[Tensor]) -> Tensor:
        """Codes (R, N, Q) of all steps; what was not drawn, or was after the end of an item, is absent."""
        ids = torch.cat(list(drawn), dim=1).flatten(1)
        offsets, pattern = self.offsets(ids.device), self.pattern(ids.device).flatten()[: ids.shape[1]]
        codes = torch.full((len(ids), len(offsets)), ABSENT, device=ids.device)
        kept = pattern != ABSENT
        cells = pattern[kept]
        codes[:, cells] = torch.where(ids[:, kept] == self.total, ABSENT, ids[:, kept] - offsets[cells])
        codes = codes.view(len(ids), self.vocabulary.num_tokens, self.vocabulary.depth)
        if not self.vocabulary.flexible:
            return codes
        return codes.masked_fill((codes[..., :1] == ABSENT).long().cumsum(1) > 0, ABSENT)

    def known(self, prefix: Tensor) -> list[Tensor]:
        """What the first n positions (R, n, Q) say of the steps, up to the last that they say something of.

        Returns:
            Ids (R, n, G) of the slots of each step, -1 in cells behind the prefix.
        """
        beginning, starts = prefix.shape[1] * self.vocabulary.depth, self._starts
        pattern = self.pattern(prefix.device)
        behind = pattern >= beginning
        told = ((pattern != ABSENT) & ~behind).any(1).nonzero()
        missing = self.vocabulary.num_tokens - prefix.shape[1]
        ids = self.ids(F.pad(prefix, (0, 0, 0, missing), value=ABSENT)).masked_fill(behind, ABSENT)
        steps = bisect_left(starts, int(told[-1]) + 1) if len(told) else 0
        return [ids[:, starts[step] : starts[step + 1]] for step in range(steps)]


def _pairs(pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs).T.contiguous()


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (B, P) in float32 of logits (B, P, K) for targets (B, P), NaN where a target is -1."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=ABSENT, reduction="none")
    return losses.view(targets.shape).masked_fill(targets == ABSENT, torch.nan)
