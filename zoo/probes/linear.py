"""Logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["STRENGTHS", "Logistic", "fit_logistic", "linear_probe"]

STRENGTHS = tuple(10.0**power for power in range(-6, 2))


@dataclass(frozen=True, slots=True)
class Logistic:
    """Class scores x W + b of features.

    Attributes:
        weight: (D, C) float64.
        bias: (C,) float64.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores (N, C) of features (N, D)."""
        return features.double() @ self.weight + self.bias


def fit_logistic(features: Tensor, labels: Tensor, classes: int, strength: float) -> Logistic:
    """Minimise the mean cross-entropy + strength / 2 * ||W||^2 by L-BFGS in float64, to a gradient of 1e-7.

    Of more features than items only the directions in which items differ matter, so the search is in those.

    Args:
        features: (N, D), on a scale where all count alike (see `linear_probe`).
        labels: (N,) int64 in [0, classes).
        strength: above 0; scikit-learn's C is 1 / (N * strength).
    """
    x = features.double()
    basis = torch.linalg.qr(x.T).Q if x.shape[1] > len(x) else None
    x = x if basis is None else x @ basis
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + strength / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weight.detach()
    return Logistic(found if basis is None else basis @ found, bias.detach())


def linear_probe(
    parts: Sequence[tuple[Tensor, Tensor]], test: Tensor, classes: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[Tensor, float]:
    """Classes (N,) of test features (N, D) by logistic regression, and the strength that validation chose.

    Features are brought to mean 0 and deviation 1 by those of all items that are learned from. Of equally good
    strengths the largest is taken; then training and validation items are learned from together.

    Args:
        parts: features (N, D) and labels (N,) of the training and the validation items; the latter may be none.
    """
    whole, labels = torch.cat([part[0] for part in parts]).double(), torch.cat([part[1] for part in parts])
    mean, spread = whole.mean(0), whole.std(0, correction=0)
    spread = torch.where(spread > 1e-8 * spread.max().clamp_min(1e-30), spread, 1.0)
    scaled = [((part.double() - mean) / spread, truth) for part, truth in parts]
    (train, truth), (held, held_truth) = scaled
    best, most = 1.0, -1.0
    for strength in sorted(strengths, reverse=True) if len(held) else ():
        right = float((fit_logistic(train, truth, classes, strength)(held).argmax(1) == held_truth).double().mean())
        if right > most:
            best, most = strength, right
    model = fit_logistic((whole - mean) / spread, labels, classes, best)
    return model((test.double() - mean) / spread).argmax(1), best
