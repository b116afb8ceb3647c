"""Filling masked tokens in a few steps: the surest first (MaskGIT), or in an order fixed beforehand (Halton)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.generators.sampling import gumbel, sample, shaped
from zoo.generators.schedules import arccos_ratio

__all__ = ["Predict", "by_confidence", "halton_order", "in_order", "masked_after"]

# Ids (B, L), some of them masks, and the progress in [0, 1) -> logits (B, L, V).
Predict = Callable[[Tensor, float], Tensor]


def masked_after(step: int, steps: int, length: int) -> int:
    """Tokens of `length` that are still masked after 0-based `step`: the arccos schedule, rounded down."""
    return math.floor(length * arccos_ratio((step + 1) / steps))


def by_confidence(
    predict: Predict,
    ids: Tensor,
    mask_id: int,
    *,
    steps: int,
    temperature: float = 1.0,
    cooling: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each step draws every masked token, and masks again those it was least sure of (arXiv 2202.04200, Sec. 3.2).

    The draw and the ranking of logits both bear Gumbel noise, of weight `temperature` at first and 0 at the end.

    Args:
        predict: the network, guided or not.
        ids: (B, L) int64 with `mask_id` where a token is wanted.
        mask_id: the id of a mask.
        steps: calls of `predict`, each masking at least one token fewer.
        temperature: weight of the noise; 0 is deterministic.
        cooling: divide the logits by a number that falls from 1.3 to 0.5.
        top_k, top_p: as in `sample`.
        generator: source of the noise.

    Returns:
        (B, L) int64.
    """
    for step in range(steps):
        left = 1 - (step + 1) / steps
        logits = predict(ids, step / steps).float()
        if cooling:
            logits = logits / (0.5 + 0.8 * left)
        masked = ids == mask_id
        drawn = _noisy(shaped(logits, 1.0, top_k, top_p), temperature * left, generator).argmax(-1)
        ids = torch.where(masked, drawn, ids)
        if step == steps - 1:
            break
        sure = logits.gather(-1, drawn[..., None])[..., 0]
        sure = _noisy(sure, temperature * left, generator).masked_fill(~masked, torch.inf)
        hidden = (masked.sum(-1, keepdim=True) - 1).clamp(max=masked_after(step, steps, ids.shape[1])).clamp_min(1)
        least = sure.sort(-1).values.gather(-1, hidden - 1)
        ids = ids.masked_fill(masked & (sure <= least), mask_id)
    return ids


def in_order(
    predict: Predict,
    ids: Tensor,
    mask_id: int,
    order: Tensor,
    *,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each step draws the next masked tokens of a fixed order, as many as the arccos schedule uncovers.

    Args:
        predict, ids, mask_id, steps: as in `by_confidence`.
        order: (L,) int64, a permutation of the positions.
        temperature, top_k, top_p, generator: as in `sample`.

    Returns:
        (B, L) int64.
    """
    done, length = 0, len(order)
    steps = min(steps, length)
    for step in range(steps):
        until = min(max(length - masked_after(step, steps, length), done + 1), length)
        places, done = order[done:until], until
        logits = predict(ids, step / steps)[:, places]
        drawn = sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        ids = ids.clone()
        ids[:, places] = torch.where(ids[:, places] == mask_id, drawn, ids[:, places])
    return ids


def halton_order(height: int, width: int) -> Tensor:
    """Positions of a grid, row by row numbers, so ordered that any first few lie spread over it (arXiv 2503.17076).

    The points of the Halton sequence, base 2 downwards and base 3 across; a cell counts when first hit.

    Returns:
        (height * width,) int64, a permutation.
    """
    seen: dict[int, None] = {}
    point = 0
    while len(seen) < height * width:
        point += 1
        seen.setdefault(int(_radical_inverse(point, 2) * height) * width + int(_radical_inverse(point, 3) * width))
    return torch.tensor(list(seen), dtype=torch.int64)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of a number mirrored at the point: 6 = 110 in base 2 gives 0.011."""
    inverse, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        inverse += digit * place
    return inverse


def _noisy(values: Tensor, weight: float, generator: torch.Generator | None) -> Tensor:
    return values + weight * gumbel(values.shape, values, generator=generator) if weight else values
