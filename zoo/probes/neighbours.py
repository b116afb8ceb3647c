"""Nearest neighbours among frozen features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["nearest_classes"]

_ROWS = 1024


def nearest_classes(known: Tensor, labels: Tensor, features: Tensor, classes: int, count: int = 10) -> Tensor:
    """The class most frequent among the `count` known items of largest cosine similarity.

    Of classes with equally many neighbours, the one whose neighbours are more similar in sum.

    Args:
        known: (M, D).
        labels: (M,) int64 in [0, classes).
        features: (N, D).

    Returns:
        (N,) int64.
    """
    if count < 1:
        raise ValueError(f"the number of neighbours is at least 1, got {count}")
    count = min(count, len(known))
    directions, found = F.normalize(known.double(), dim=1), []
    for rows in F.normalize(features.double(), dim=1).split(_ROWS):
        similarity, places = (rows @ directions.T).topk(count, dim=1)
        # a neighbour's vote is 1 and its similarity in [-1, 1] decides between classes with equally many
        votes = 1 + similarity / (4 * count)
        found.append(
            torch.zeros(len(rows), classes, dtype=torch.float64).scatter_add_(1, labels[places], votes).argmax(1)
        )
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
