"""Power laws of counts, fitted by maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RANK_LEAST", "Tail", "zipf_exponent", "zipf_tail"]

RANK_LEAST = 5
_GOLDEN = (5**0.5 - 1) / 2
_CANDIDATES = 40


@dataclass(frozen=True, slots=True)
class Tail:
    """A power law p(k) ~ k^-exponent of counts k >= start.

    Attributes:
        exponent: NaN where there was nothing to fit.
        start: the smallest count that follows it.
        share: of the types whose counts do.
        distance: largest difference of the two cumulative distributions (Kolmogorov-Smirnov).
    """

    exponent: float
    start: int
    share: float
    distance: float


def zipf_exponent(counts: Tensor, *, least: int = RANK_LEAST) -> float:
    """Exponent s of Zipf's law: the type of rank r has a share ~ r^-s, r = 1 ... R.

    Maximum likelihood over the ranks, by the counts themselves; not a line through a log-log plot, which the many rare
    types would pull. R is the number of types seen at least `least` times: the ranks of rarer ones are noise.

    Args:
        counts: (U,) int64 in any order; zeros do not matter.

    Returns:
        s in [0, 20]; NaN where fewer than 3 types are that frequent.
    """
    frequent = counts[counts >= max(1, least)].double().sort(descending=True).values
    if len(frequent) < 3:
        return float("nan")
    logs = torch.arange(1, len(frequent) + 1, dtype=torch.float64, device=counts.device).log()
    mean = (frequent * logs).sum() / frequent.sum()
    return _least(lambda s: float(s * mean + (-s * logs).logsumexp(0)), 0.0, 20.0)


def zipf_tail(counts: Tensor, *, start: int | None = None) -> Tail:
    """The discrete power law of the counts' tail (Clauset, Shalizi, Newman 2009, Eq. 3.5).

    A vocabulary under Zipf's law of exponent s has counts with exponent 1 + 1/s.

    Args:
        counts: (U,) int64; zeros do not matter.
        start: smallest count that belongs to the tail. None for their rule: of all candidates, whichever gives the
            least Kolmogorov-Smirnov distance between the tail and its fit (Sec. 3.3); of up to 40 counts that occur,
            evenly spread over the types, among those that leave at least 10 types in the tail.
    """
    counts = counts[counts > 0].double().sort().values
    if start is not None:
        tail = counts[counts >= start]
        return (
            _fit(tail, start, len(counts)) if len(tail.unique()) > 1 else Tail(float("nan"), start, 0.0, float("nan"))
        )
    places = (
        torch.linspace(0, max(0, len(counts) - 10), _CANDIDATES).long() if len(counts) >= 10 else torch.zeros(0).long()
    )
    fits = [
        _fit(counts[counts >= first], int(first), len(counts))
        for first in counts[places.to(counts.device)].unique().tolist()
        if counts[-1] > first
    ]
    return min(fits, key=lambda fit: fit.distance, default=Tail(float("nan"), 1, 0.0, float("nan")))


def _fit(tail: Tensor, start: int, types: int) -> Tail:
    def zeta(exponent: float, first: Tensor) -> Tensor:
        return torch.special.zeta(torch.tensor(exponent, dtype=torch.float64, device=tail.device), first)

    bottom = torch.tensor(float(start), dtype=torch.float64, device=tail.device)
    mean = float(tail.log().mean())
    exponent = _least(lambda a: a * mean + float(zeta(a, bottom).log()), 1.001, 20.0)
    values, found = tail.unique(return_counts=True)
    empirical = found.cumsum(0) / len(tail)
    fitted = 1 - zeta(exponent, values + 1) / zeta(exponent, bottom)
    return Tail(exponent, start, len(tail) / types, float((empirical - fitted).abs().max()))


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, to 1e-6, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-6:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
