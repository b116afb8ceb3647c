"""From noise to data along the learned velocities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

__all__ = ["METHODS", "Method", "integrate", "time_grid"]

Method = Literal["euler", "heun"]
METHODS: tuple[Method, ...] = get_args(Method)


def time_grid(steps: int) -> tuple[float, ...]:
    """steps + 1 times, evenly from 1 (noise) to 0 (clean).

    Raises:
        ValueError: steps is no whole number above 0.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"sampling takes a whole number of steps, at least 1, got {steps!r}")
    return tuple((steps - number) / steps for number in range(steps + 1))


def integrate(
    velocity: Callable[[Tensor, int], Tensor], noise: Tensor, grid: Sequence[float], method: Method = "euler"
) -> Tensor:
    """Follow a velocity field from grid[0] to grid[-1].

    Args:
        velocity: (x (B, ...), i) -> the velocity (B, ...) at x and time grid[i].
        noise: (B, ...) the start.
        grid: times, from `time_grid` or of one's own.
        method: "euler", one evaluation a step; "heun", two, of second order, but for the last step: at time 0 networks
            are hardly trained (as in arXiv 2206.00364, Alg. 1).

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"the sampler is one of {', '.join(METHODS)}, got {method!r}")
    x = noise
    for i, (now, then) in enumerate(pairwise(grid)):
        slope = velocity(x, i)
        step = x + (then - now) * slope
        if method == "heun" and i + 2 < len(grid):
            step = x + (then - now) / 2 * (slope + velocity(step, i + 1))
        x = step
    return x
