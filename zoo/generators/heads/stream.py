"""Codes one after the other: a single codebook, or several in one of the orders of `zoo.streams`."""

from __future__ import annotations

import torch

from zoo import streams
from zoo.generators.base import ABSENT, Vocabulary
from zoo.generators.heads.base import Head

__all__ = ["Stream"]


class Stream(Head):
    """One step a slot, in the order of a stream.

    `flat` reads the Q codes of a position one after the other, N Q steps. `delay` reads codebook q of position n - q
    together with codebook 0 of position n, N + Q - 1 steps (MusicGen, arXiv 2306.05284, Sec. 2.2). `scale_major` and
    `frames` are for codes of several scales (SNAC).

    Args:
        order: see `zoo.streams.to_ids`.
    """

    def __init__(self, order: streams.StreamOrder = "flat") -> None:
        super().__init__()
        self.order = order

    def connect(self, vocabulary: Vocabulary, width: int) -> None:
        """See `Head`."""
        count, depth = vocabulary.num_tokens, vocabulary.depth
        if vocabulary.flexible and (self.order != "flat" or vocabulary.distinct_scales):
            raise ValueError(
                f"items of any length are read in the order 'flat', scales sharing codebooks, got {self.order!r}"
            )
        together = depth if self.order == "delay" else 1
        cells = count * depth
        ranges = streams.Ranges(tuple(vocabulary.scales), False)
        with torch.device("cpu"):
            numbered = torch.arange(cells).view(1, count, depth)
            whole = torch.ones(1, count, dtype=torch.bool)
            ids = streams.to_ids(numbered, whole, (cells,) * depth, ranges, self.order, 0)[0]
            pattern = torch.where(ids == cells * depth, ABSENT, ids % cells).view(-1, together)
        self.arrange(vocabulary, width, pattern, (1,) * len(pattern))
