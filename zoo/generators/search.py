"""Search at test time: several drafts of a code, decoded and judged by any scorer (arXiv 2604.15453)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.generators.base import ABSENT, Generator, Vocabulary
from zoo.tokens import Tokens

__all__ = ["Decoder", "Found", "Scorer", "beam_search", "best_of", "geometric"]

# What was decoded (R, C, ...) and its conditions (R, ...) or None -> scores (R,), higher is better.
Scorer = Callable[[Tensor, Tensor | None], Tensor]


class Decoder(Protocol):
    """A tokenizer, as far as it is needed here."""

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens of R items -> what they stand for (R, C, ...)."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The best code of each item.

    Attributes:
        indices: (B, N, Q) int64.
        scores: (B,) float32.
        history: (S, B) float32, the best score after each stage.
        decoded: items that were decoded and judged, of all B together.
    """

    indices: Tensor
    scores: Tensor
    history: Tensor
    decoded: int


def geometric(num_tokens: int) -> tuple[int, ...]:
    """Lengths of prefixes that double: 1, 2, 4 and so on up to all tokens."""
    lengths = [1]
    while lengths[-1] < num_tokens:
        lengths.append(min(2 * lengths[-1], num_tokens))
    return tuple(lengths)


@torch.no_grad()
def best_of(
    model: Generator,
    tokenizer: Decoder,
    scorer: Scorer,
    condition: Tensor | None = None,
    *,
    candidates: int = 50,
    count: int = 1,
    batch_size: int = 64,
    **sampling: Any,
) -> Found:
    """The best of several independent draws of each item.

    Args:
        model: any generator.
        tokenizer: that of its codes.
        scorer: judges what was decoded.
        condition: as `Generator.generate` takes it, one row an item.
        candidates: draws of each item.
        count: items, where there is no condition.
        batch_size: items drawn and decoded together.
        sampling: further arguments of `generate`, for example `temperature` or `generator`.

    Returns:
        `history` has one row.
    """
    _at_least_one(candidates=candidates, count=count, batch_size=batch_size)
    items = count if condition is None else len(condition)
    judge = _Judge(model, tokenizer, scorer, condition, batch_size, sampling)
    rows = torch.arange(items).repeat_interleave(candidates)
    drawn = judge.draw(rows, None, None)
    scores = judge(rows, drawn, model.vocabulary.num_tokens).view(items, candidates)
    best = scores.argmax(1)
    indices = drawn.unflatten(0, (items, candidates))[torch.arange(items, device=drawn.device), best]
    top = scores.amax(1)
    return Found(indices, top, top[None], judge.decoded)


@torch.no_grad()
def beam_search(
    model: Generator,
    tokenizer: Decoder,
    scorer: Scorer,
    condition: Tensor | None = None,
    *,
    beams: int = 5,
    candidates: int = 10,
    lengths: Sequence[int] | None = None,
    lookahead: int = 0,
    count: int = 1,
    batch_size: int = 64,
    **sampling: Any,
) -> Found:
    """Beginnings of codes grow from stage to stage; each is decoded as it is, and the best go on.

    A stage draws `candidates` continuations of every beam up to its length, decodes them and keeps the best `beams`.
    Beginnings must stand for the whole (order `coarse_to_fine`), and the generator continue them: `GPT` or `RAR`.

    Args:
        model, tokenizer, scorer, condition, count, batch_size, sampling: see `best_of`.
        beams: beginnings of each item that go on.
        candidates: continuations of each.
        lengths: tokens at the end of each stage, rising up to N; None for `geometric`.
        lookahead: tokens behind a beginning that are drawn only to judge it.

    Raises:
        ValueError: lengths do not rise to N, or prefixes of these codes do not stand for the whole.
    """
    _at_least_one(beams=beams, candidates=candidates, count=count, batch_size=batch_size, lookahead=lookahead + 1)
    total = model.vocabulary.num_tokens
    stages = geometric(total) if lengths is None else tuple(lengths)
    if list(stages) != sorted(set(stages)) or stages[:1] < (1,) or stages[-1] != total:
        raise ValueError(f"lengths rise from at least 1 to {total}, got {stages}")
    items = count if condition is None else len(condition)
    judge = _Judge(model, tokenizer, scorer, condition, batch_size, sampling)
    kept: Tensor | None = None  # (items * beams, n, Q)
    width, history = 1, []
    for length in stages:
        branches = candidates if kept is not None else beams * candidates
        rows = torch.arange(items).repeat_interleave(width * branches)
        prefix = None if kept is None else kept.repeat_interleave(branches, dim=0)
        ahead = min(length + lookahead, total)
        drawn = judge.draw(rows, prefix, ahead)
        scores = judge(rows, drawn, ahead).view(items, -1)
        width = min(beams, scores.shape[1])
        best = scores.topk(width, dim=1)
        places = best.indices + torch.arange(items, device=scores.device)[:, None] * scores.shape[1]
        history.append(best.values[:, 0])
        kept = drawn[places.flatten(), :length]
    assert kept is not None
    return Found(kept[::width], history[-1], torch.stack(history), judge.decoded)


@dataclass(slots=True)
class _Judge:
    """Draws, decodes and judges in batches."""

    model: Generator
    tokenizer: Decoder
    scorer: Scorer
    condition: Tensor | None
    batch_size: int
    sampling: dict[str, Any]
    decoded: int = 0

    def draw(self, rows: Tensor, prefix: Tensor | None, stop: int | None) -> Tensor:
        """Codes (R, N, Q) for the items `rows` (R,), behind `prefix` (R, n, Q) up to `stop`."""
        found = []
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            condition = self._conditions(rows[part])
            given: dict[str, Any] = {} if stop is None else {"stop": stop}
            if prefix is not None:
                given["prefix"] = prefix[part]
            if condition is None:
                given["count"] = len(rows[part])
            found.append(self.model.generate(condition, **given, **self.sampling))
        return torch.cat(found)

    def __call__(self, rows: Tensor, indices: Tensor, length: int) -> Tensor:
        """Scores (R,) of the first `length` positions of codes (R, N, Q)."""
        scores = []
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            shown = self.tokenizer.decode(beginning(self.model.vocabulary, indices[part], length))
            scores.append(self.scorer(shown, self._conditions(rows[part])).float())
            if tuple(scores[-1].shape) != (len(shown),):
                raise ValueError(f"the scorer gives ({len(shown)},) scores, got {tuple(scores[-1].shape)}")
            self.decoded += len(shown)
        return torch.cat(scores)

    def _conditions(self, rows: Tensor) -> Tensor | None:
        return None if self.condition is None else self.condition[rows.to(self.condition.device)]


def beginning(vocabulary: Vocabulary, indices: Tensor, length: int) -> Tokens:
    """The first positions of codes (R, N, Q), which decode on their own where the order is coarse to fine."""
    missing = vocabulary.num_tokens - indices.shape[1]
    tokens = vocabulary.tokens(F.pad(indices, (0, 0, 0, missing), value=ABSENT))
    return tokens if length == vocabulary.num_tokens else tokens.keep(length)


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is at least 1, got {number}")
