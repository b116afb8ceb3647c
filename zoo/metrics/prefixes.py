"""What prefixes of a flexible code are worth: quality against bits, and how two such curves compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["PrefixCurve", "bd_quality", "bd_rate"]

Fit = Literal["cubic", "linear"]


@dataclass(frozen=True, slots=True)
class Point:
    """One length of a code.

    Attributes:
        bits: what it costs.
        value: what it reaches.
        tokens: positions kept, where known.
    """

    bits: float
    value: float
    tokens: int | None = None


class PrefixCurve:
    """Values at rising bits.

    Args:
        points: (bits, value) or (bits, value, tokens), in any order; bits above 0 and no two alike.
        better: which values are better.

    Attributes:
        points: in rising order of bits.

    Raises:
        ValueError: fewer than two points, equal bits, or numbers that are none.
    """

    def __init__(
        self, points: Iterable[tuple[float, float] | tuple[float, float, int]], *, better: Literal["higher", "lower"]
    ) -> None:
        self.points = tuple(sorted((Point(*point) for point in points), key=lambda point: point.bits))
        self.better = better
        if better not in ("higher", "lower"):
            raise ValueError(f"better is 'higher' or 'lower', got {better!r}")
        self.bits = np.array([point.bits for point in self.points], np.float64)
        self.values = np.array([point.value for point in self.points], np.float64)
        numbers = np.isfinite(self.bits).all() and np.isfinite(self.values).all()
        if len(self.points) < 2 or not numbers or self.bits[0] <= 0 or (np.diff(self.bits) == 0).any():
            got = list(zip(self.bits.tolist(), self.values.tolist(), strict=True))
            raise ValueError(f"expected at least two points (bits, value), of different bits above 0, got {got}")

    @property
    def gains(self) -> np.ndarray:
        """Share of the whole code's gain over the shortest prefix that each length has, (P,): 0 first and 1 last.

        Above 1 where a prefix is better than the whole; NaN where the whole gains nothing.
        """
        rise = self.values - self.values[0]
        return rise / rise[-1] if rise[-1] else np.full(len(rise), np.nan)

    @property
    def steps(self) -> np.ndarray:
        """What each length adds to that share beyond the one before it, (P,); the first adds 0."""
        return np.diff(self.gains, prepend=0.0)

    @property
    def area(self) -> float:
        """Mean of `gains` over log2 of the bits (trapezoids): near 1 if the first tokens tell most, 0.5 on a line."""
        logs = np.log2(self.bits)
        return float(np.trapezoid(self.gains, logs) / (logs[-1] - logs[0]))

    def bits_for(self, share: float) -> float:
        """Fewest bits at which a share of the gain is reached, interpolated in log2 of the bits; NaN if none is."""
        gains, logs = np.maximum.accumulate(self.gains), np.log2(self.bits)
        above = np.flatnonzero(gains >= share)
        if not len(above):
            return float("nan")
        place = int(above[0])
        if place == 0 or gains[place] == share:
            return float(self.bits[place])
        part = (share - gains[place - 1]) / (gains[place] - gains[place - 1])
        return float(2 ** (logs[place - 1] + part * (logs[place] - logs[place - 1])))

    def rising(self) -> tuple[np.ndarray, np.ndarray]:
        """log10 of the bits, and quality (values, negated where lower is better), of points better than all shorter."""
        quality = self.values if self.better == "higher" else -self.values
        best = np.maximum.accumulate(np.concatenate([[-np.inf], quality[:-1]]))
        kept = quality > best
        return np.log10(self.bits[kept]), quality[kept]


def bd_rate(curve: PrefixCurve, anchor: PrefixCurve, *, fit: Fit = "linear") -> float:
    """Bjontegaard's delta rate (VCEG-M33): how many more bits a curve takes than the anchor at equal quality.

    The mean difference of log bits over the qualities that both reach. Points no better than a shorter one are left
    out.

    Args:
        fit: "linear" interpolates between points; "cubic" is the original's polynomial, of at least four points each.

    Returns:
        A share: -0.2 saves 20 %. NaN where no quality is reached by both.

    Raises:
        ValueError: the values are not of one kind, or too few points are left for the fit.
    """
    (bits, quality), (other_bits, other_quality) = _both(curve, anchor)
    difference = _mean_difference((quality, bits), (other_quality, other_bits), fit)
    return float(10**difference - 1)


def bd_quality(curve: PrefixCurve, anchor: PrefixCurve, *, fit: Fit = "linear") -> float:
    """Bjontegaard's delta quality: how much better a curve is than the anchor at equal bits, in units of the value.

    The mean over log bits of the range that both cover; above 0 is better, also where lower values are. Else as
    `bd_rate`.
    """
    first, second = _both(curve, anchor)
    return _mean_difference(first, second, fit)


_Line = tuple[np.ndarray, np.ndarray]


def _both(curve: PrefixCurve, anchor: PrefixCurve) -> tuple[_Line, _Line]:
    if curve.better != anchor.better:
        raise ValueError(f"one curve is better {curve.better}, the other {anchor.better}: they hold different values")
    return curve.rising(), anchor.rising()


def _mean_difference(first: _Line, second: _Line, fit: Fit) -> float:
    """Mean of the first line (x, y) less the second over the x that both cover; NaN where there is none."""
    needed = 4 if fit == "cubic" else 2
    if min(len(first[0]), len(second[0])) < needed:
        raise ValueError(
            f"a {fit} fit needs {needed} points that rise in quality, got {len(first[0])} and {len(second[0])}"
        )
    low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
    if not high > low:
        return float("nan")
    areas = [_area(x, y, low, high, fit) for x, y in (first, second)]
    return float((areas[0] - areas[1]) / (high - low))


def _area(x: np.ndarray, y: np.ndarray, low: float, high: float, fit: Fit) -> float:
    if fit == "cubic":
        whole = np.polynomial.Polynomial.fit(x, y, 3).integ()
        return float(whole(high) - whole(low))
    inside = np.unique(np.concatenate([[low], x[(x > low) & (x < high)], [high]]))
    return float(np.trapezoid(np.interp(inside, x, y), inside))
