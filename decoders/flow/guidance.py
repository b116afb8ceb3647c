"""Guidance: a stronger condition than the network was trained with, from its velocities with and without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["AdaptiveProjected", "ClassifierFree", "Guidance", "as_guidance"]

Rule = Callable[[Tensor, Tensor], Tensor]  # velocities (B, ...) with and without condition -> the guided one


@runtime_checkable
class Guidance(Protocol):
    """How the velocities with and without condition are put together; `scale` 1 leaves the conditional one alone."""

    scale: float

    def start(self) -> Rule:
        """The rule of one sampling run, with whatever it remembers from step to step."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """u + scale (c - u) (arXiv 2207.12598).

    Attributes:
        scale: 1 is no guidance.
    """

    scale: float

    def start(self) -> Rule:
        """Nothing is remembered."""
        return lambda conditional, unconditional: unconditional + self.scale * (conditional - unconditional)


@dataclass(frozen=True)
class AdaptiveProjected:
    """APG: guidance without the part that only makes the picture more saturated (arXiv 2410.02416, Alg. 1).

    The difference c - u is averaged over evaluations, cut to a norm and freed of its component along c, each item by
    itself.

    Attributes:
        scale: 1 is no guidance.
        momentum: weight of the previous average; negative values push away from it.
        threshold: largest norm of an item's difference; 0 for no limit.
        eta: how much of the component along c remains.
    """

    scale: float
    momentum: float = -0.5
    threshold: float = 2.5
    eta: float = 0.0

    def start(self) -> Rule:
        """A rule that remembers the average of the differences."""
        average: Tensor | float = 0.0

        def rule(conditional: Tensor, unconditional: Tensor) -> Tensor:
            nonlocal average
            axes = tuple(range(1, conditional.ndim))
            average = conditional - unconditional + self.momentum * average
            change = average
            if self.threshold > 0:
                norm = change.square().sum(axes, keepdim=True).sqrt()
                change = change * (self.threshold / norm.clamp_min(1e-12)).clamp_max(1)
            precise = torch.float32 if conditional.device.type == "mps" else torch.float64
            along, wide = conditional.to(precise), change.to(precise)
            along = along / along.square().sum(axes, keepdim=True).sqrt().clamp_min(1e-12)
            parallel = (wide * along).sum(axes, keepdim=True) * along
            update = (wide - parallel + self.eta * parallel).to(conditional.dtype)
            return conditional + (self.scale - 1) * update

        return rule


def as_guidance(guidance: float | Guidance | None) -> Guidance | None:
    """A number becomes `AdaptiveProjected(number)`, and what changes nothing (None, scale 1) None.

    Raises:
        ValueError: neither a number nor a guidance.
    """
    if guidance is None:
        return None
    number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
    rule = AdaptiveProjected(float(guidance)) if number else guidance  # type: ignore[arg-type]
    if not isinstance(rule, Guidance):
        raise ValueError(
            f"guidance is a scale or a decoders.ClassifierFree or AdaptiveProjected, got {type(rule).__name__}"
        )
    return None if rule.scale == 1 else rule
