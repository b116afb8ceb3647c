"""A small transformer over the codebooks of one position: RQ-Transformer, Moshi, TokenBridge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from encoders.layers.fixed import Fixed
from zoo.generators.base import Vocabulary
from zoo.generators.heads.base import Head, Pick, Range, score
from zoo.generators.layers.attention import Transformer
from zoo.generators.layers.rotary import spread_table

__all__ = ["Depth"]


class Depth(Head):
    """One slot a position; its Q codes are drawn one after the other by a transformer of their own.

    That transformer starts from what the large one says of the position, and reads the codes before (RQ-Transformer,
    arXiv 2203.01941, Sec. 3.2; Moshi, arXiv 2410.00037, Sec. 3.4.1). With `channels` it goes through them in another
    order, as TokenBridge does through the channels of a latent (arXiv 2503.16430, Sec. 3.3).

    Args:
        width: of the small transformer; None for that of the large one.
        depth, heads: of the small transformer.
        channels: the order in which codebooks are drawn; None for 0 to Q - 1.
    """

    def __init__(
        self, width: int | None = None, depth: int = 4, heads: int = 4, channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.inner, self.layers, self.heads, self.channels = width, depth, heads, channels

    def connect(self, vocabulary: Vocabulary, width: int) -> None:
        """See `Head`."""
        books, inner = vocabulary.depth, self.inner or width
        order = list(range(books)) if self.channels is None else [int(channel) for channel in self.channels]
        if sorted(order) != list(range(books)):
            raise ValueError(f"channels are the numbers 0 to {books - 1} in some order, got {order}")
        if vocabulary.distinct_scales or (vocabulary.flexible and order[0]):
            raise ValueError("Depth reads codebooks that all positions share, codebook 0 first where items may end")
        pattern = torch.arange(vocabulary.num_tokens * books, device="cpu").view(-1, books)
        self.arrange(vocabulary, width, pattern, (1,) * len(pattern), output_width=inner)
        starts = [0, *accumulate(vocabulary.codebook_sizes)]
        self._order = order
        self._plan = [
            Range(starts[book], vocabulary.codebook_sizes[book], vocabulary.flexible and book == 0) for book in order
        ]
        self.project = nn.Linear(width, inner, bias=False)
        self.embed_depth = nn.Embedding(books, inner)
        self.embed_before = nn.ModuleList(nn.Embedding(book.size, inner) for book in self._plan[:-1])
        self.transformer = Transformer(inner, self.layers, self.heads)
        self.table = Fixed(lambda: spread_table(torch.arange(books)[:, None], inner // self.heads))

    def nll(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """See `Head`."""
        batch, count, depth = indices.shape
        ordered = indices[..., self._order].clamp_min(0).flatten(0, 1)
        before = [table(ordered[:, step]) for step, table in enumerate(self.embed_before)]
        said = torch.stack([self.project(hidden).flatten(0, 1), *before], dim=1) + self.embed_depth.weight
        said = self.transformer(said, self.table(hidden.device), causal=depth > 1)
        targets = self.targets(indices).view(batch * count, depth)
        losses = [score(self.logits(said[:, s : s + 1], book), targets[:, self._order[s], None])
                  for s, book in enumerate(self._plan)]  # fmt: skip
        back = sorted(range(depth), key=self._order.__getitem__)
        return torch.cat(losses, dim=1)[:, back].view(batch, count, depth)

    def draw(self, hidden: Tensor, step: int, pick: Pick) -> Tensor:
        """See `Head`."""
        depth = self.vocabulary.depth
        cache = self.transformer.cache(len(hidden), depth)
        table, steps, drawn = self.table(hidden.device), self.embed_depth.weight, []
        said = self.project(hidden)
        for number, book in enumerate(self._plan):
            said = self.transformer(said + steps[number], table[:, number : number + 1], cache=cache, start=number)
            codes = pick(self.logits(said, book))
            drawn.append(self._named(codes, book))
            if number + 1 < depth:
                said = self.embed_before[number](codes.clamp_max(book.size - 1))
        back = sorted(range(depth), key=self._order.__getitem__)
        return torch.stack([drawn[number] for number in back], dim=-1)
