"""Accuracy, with what says how much it is worth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["score", "wilson_interval"]


def wilson_interval(right: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927), 95 % by default.

    Args:
        right: how many of `count` were right; a mean over repetitions need not be whole.
        count: judged, at least 1.
    """
    share, weight = right / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)


def score(predicted: Tensor, truth: Tensor, classes: int) -> dict[str, Any]:
    """Numbers of a classifier.

    Args:
        predicted: (R, N) int64, classes that each of R repetitions gave.
        truth: (N,) int64.
        classes: how many there are.

    Returns:
        `accuracy`, mean over repetitions; `interval`, 95 %, of as many judgements as there are items; `balanced`, mean
        of the classes' own accuracies; `repetitions`, the accuracy of each where there are several.
    """
    right = (predicted == truth).double()
    each = torch.stack([right[:, truth == label].mean() for label in range(classes) if bool((truth == label).any())])
    accuracy = float(right.mean())
    found: dict[str, Any] = {
        "accuracy": accuracy,
        "interval": list(wilson_interval(accuracy * len(truth), len(truth))),
        "balanced": float(each.mean()),
    }
    return found if len(predicted) == 1 else {**found, "repetitions": right.mean(1).tolist()}
