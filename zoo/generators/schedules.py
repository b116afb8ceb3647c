"""What changes from step to step: the scale of guidance, how much is masked, how shuffled the order is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

__all__ = ["GuidanceSchedule", "arccos_ratio", "as_schedule", "guide", "random_order_ratio"]

Shape = Literal["constant", "linear", "cosine", "power_cosine"]


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance u + scale (c - u) on logits (arXiv 2207.12598): 1 is no guidance, 0 no condition."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True, slots=True)
class GuidanceSchedule:
    """The scale of classifier-free guidance along the way, in one convention: u + scale (c - u).

    Where others write c + s (c - u), as TiTok's MaskGIT and VAR do, `scale` is 1 + s.

    Attributes:
        scale: at full strength; 1 is no guidance.
        shape: how the scale gets from 1 to full strength with progress p: "constant" is full from the start; "linear"
            is 1 + (scale - 1) p (MAR, VAR); "cosine" has (1 - cos(pi p)) / 2 in place of p, and "power_cosine"
            (1 - cos(pi p^power)) / 2 (RAR, after MDT; arXiv 2411.00776).
        power: of "power_cosine"; above 1 the scale rises late.
        interval: guidance acts from the first of these progresses on and before the second, and at the very end where
            the second is 1 (arXiv 2404.07724). Outside it the scale is 1, and one pass of the network is spared.
    """

    scale: float = 1.0
    shape: Shape = "constant"
    power: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"guidance shape is one of {', '.join(get_args(Shape))}, got {self.shape!r}")
        if self.power <= 0:
            raise ValueError(f"guidance power is above 0, got {self.power}")
        object.__setattr__(self, "interval", tuple(self.interval))
        if len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ValueError(f"guidance interval is two rising numbers in [0, 1], got {self.interval}")

    @property
    def active(self) -> bool:
        """Whether it ever changes anything."""
        return self.scale != 1

    def at(self, progress: float) -> float:
        """The scale at a progress in [0, 1]: step / steps, or the share of tokens known so far."""
        start, end = self.interval
        if not (start <= progress < end or (end == 1 and progress >= 1)):
            return 1.0
        ramp = {
            "constant": lambda p: 1.0,
            "linear": lambda p: p,
            "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
            "power_cosine": lambda p: (1 - math.cos(math.pi * p**self.power)) / 2,
        }[self.shape]
        return 1 + (self.scale - 1) * ramp(progress)


def as_schedule(guidance: float | GuidanceSchedule | None) -> GuidanceSchedule | None:
    """A number becomes a constant scale; what never changes anything (None, scale 1) becomes None.

    Raises:
        ValueError: neither a number nor a schedule.
    """
    if guidance is None:
        return None
    if isinstance(guidance, int | float) and not isinstance(guidance, bool):
        guidance = GuidanceSchedule(float(guidance))
    if not isinstance(guidance, GuidanceSchedule):
        raise ValueError(f"guidance is a scale or a GuidanceSchedule, got {type(guidance).__name__}")
    return guidance if guidance.active else None


def arccos_ratio(progress: float) -> float:
    """Share of tokens still masked at a progress in [0, 1]: arccos(p) / (pi / 2), from 1 down to 0."""
    return math.acos(progress) / (math.pi / 2)


def random_order_ratio(step: int, start: int, end: int) -> float:
    """RAR's share of sequences in random order (arXiv 2411.00776, Eq. 4): 1 before `start`, 0 from `end` on.

    Published: epochs 200 to 300 of 400.
    """
    if step < start:
        return 1.0
    return max(0.0, 1 - (step - start) / (end - start)) if step < end else 0.0
