"""Whole levels at once: next-scale prediction, and groups of nested tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers import MultiScaleVQ
from zoo.generators.base import ABSENT, Vocabulary
from zoo.generators.heads.base import Head

__all__ = ["Levels"]


class Levels(Head):
    """A level is drawn in one step from what all levels before say; attention is causal from level to level.

    With the tokenizer's quantizer the input of a level is what the coarser ones give at its size (VAR, arXiv
    2404.02905, Sec. 3.2, and `quantizers.MultiScaleVQ.teacher_forcing`). Without one it is made of the embeddings of
    the level before, stretched to its size.

    Args:
        groups: positions of each level; None for the vocabulary's scales. ResTok's generator draws 128 nested tokens as
            [1, 1, 1, 1, 4, 8, 16, 32, 64] (arXiv 2601.03955).
        quantizer: a `quantizers.MultiScaleVQ`, as the tokenizer has it. It does not learn; training copies the
            tokenizer's, and it is saved with the generator.
    """

    ahead = False

    def __init__(self, groups: Sequence[int] | None = None, quantizer: MultiScaleVQ | None = None) -> None:
        super().__init__()
        if quantizer is not None and not isinstance(quantizer, MultiScaleVQ):
            raise ValueError(f"Levels reads a quantizers.MultiScaleVQ or none, got {type(quantizer).__name__}")
        self.sizes = None if groups is None else tuple(int(size) for size in groups)
        self.quantizer = quantizer

    def connect(self, vocabulary: Vocabulary, width: int) -> None:
        """See `Head`."""
        groups = self.sizes or tuple(vocabulary.scales)
        if sum(groups) != vocabulary.num_tokens or min(groups, default=0) < 1 or vocabulary.flexible:
            raise ValueError(
                f"Levels expects groups that sum to num_tokens={vocabulary.num_tokens} of codes of one length, got "
                f"{groups}; give head.groups"
            )
        if vocabulary.distinct_scales and groups != tuple(vocabulary.scales):
            raise ValueError(f"scales with codebooks of their own are levels of their own: {vocabulary.scales}")
        if self.quantizer is not None and self.quantizer.scales != groups:
            raise ValueError(f"the quantizer has scales {self.quantizer.scales}, the levels are {groups}")
        pattern = torch.arange(vocabulary.num_tokens * vocabulary.depth, device="cpu").view(-1, vocabulary.depth)
        self.arrange(vocabulary, width, pattern, groups)
        self.embed_places = nn.Embedding(vocabulary.num_tokens, width)
        self.embed_levels = nn.Embedding(len(groups), width)
        if self.quantizer is not None:
            del self.embed_codes
            self.quantizer.requires_grad_(False).eval()
            self.project = nn.Linear(self.quantizer.dim, width)

    def train(self, mode: bool = True) -> Levels:
        """The quantizer stays as it is."""
        super().train(mode)
        if self.quantizer is not None:
            self.quantizer.eval()
        return self

    def embed(self, indices: Tensor) -> Tensor:
        """Inputs (B, S, W) of all levels for known codes (B, N, Q); those of the first hold their places alone."""
        return self._inputs(indices, len(self.groups))

    def feed(self, drawn: Sequence[Tensor]) -> Tensor:
        """See `Head`; before the first step (1, n, W)."""
        shape = (1, self.vocabulary.num_tokens, self.vocabulary.depth)
        known = (
            self.collect(drawn) if drawn else torch.zeros(shape, dtype=torch.int64, device=self.output.weight.device)
        )
        return self._inputs(known, len(drawn) + 1)[:, -self.groups[len(drawn)] :]

    def _inputs(self, indices: Tensor, levels: int) -> Tensor:
        """Inputs (B, n, W) of the first levels."""
        starts, device = [0, *accumulate(self.groups)], indices.device
        level = torch.repeat_interleave(torch.arange(levels), torch.tensor(self.groups[:levels])).to(device)
        places = self.embed_places.weight[: starts[levels]] + self.embed_levels(level)
        known = self._coarser(indices, levels, starts)
        first = places.new_zeros(len(indices), self.groups[0], self.width)
        return torch.cat([first, *known], dim=1) + places

    def _coarser(self, indices: Tensor, levels: int, starts: list[int]) -> list[Tensor]:
        """What every level after the first is told of those before."""
        if levels == 1:
            return []
        if self.quantizer is not None:
            with torch.no_grad():
                given = self.quantizer.teacher_forcing(indices[:, : starts[levels - 1]].clamp_min(0))
            return [self.project(given.to(self.project.weight.dtype))]
        ids = self.ids(indices.masked_fill(indices == ABSENT, 0))
        known = []
        for number in range(levels - 1):
            before = self.embed_ids(ids[:, starts[number] : starts[number + 1]])
            size = self.groups[number + 1]
            known.append(F.interpolate(before.mT, size=size, mode="linear", align_corners=False).mT)
        return known
