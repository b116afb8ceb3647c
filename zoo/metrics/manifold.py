"""Improved precision and recall of sets of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.metrics.feature_sets import RowMetric
from zoo.metrics.features import Features

__all__ = ["PrecisionRecall"]

BLOCK = 2048


class PrecisionRecall(RowMetric):
    """Improved precision and recall (arXiv 1904.06991, Eq. 2): higher is better.

    A set's manifold is the union of balls around its rows that reach their k-th nearest neighbour (borders included).
    Precision is the share of outputs within the manifold of the targets, recall the share of targets within that of the
    outputs. ADM's evaluator and torch-fidelity agree with this; ADM has 50 000 samples and 10 000 references, and
    other numbers give other values.

    Args:
        features: a tap of a network, or an int D for rows; published on the "pool" tap of `inception_fid`.
        neighbours: k.
        **kwargs: of `RowMetric`.

    Raises:
        ValueError: neighbours is not positive.
    """

    higher_is_better = True

    def __init__(self, features: Features | int, *, neighbours: int = 3, **kwargs: Any) -> None:
        super().__init__(features, **kwargs)
        if neighbours < 1:
            raise ValueError(f"neighbours is positive, got {neighbours}")
        self.neighbours = neighbours

    @property
    def protocol(self) -> dict[str, Any]:
        """Network and k."""
        return {**super().protocol, "neighbours": self.neighbours}

    def compute(self) -> dict[str, Tensor]:
        """`precision` and `recall`, () float64 in [0, 1]; NaN where a side has no more than k rows."""
        ours, theirs = self.outputs, self.targets
        self.notes = []
        if min(len(ours), len(theirs)) <= self.neighbours:
            self.notes.append(f"undefined: {self.neighbours} neighbours of {min(len(ours), len(theirs))} pictures")
            return dict.fromkeys(("precision", "recall"), torch.tensor(torch.nan, dtype=torch.float64))
        centre = theirs.double().mean(0).float()
        ours, theirs = ours - centre, theirs - centre
        found = [(ours, theirs), (theirs, ours)]
        shares = [inside(rows, others, radii(others, self.neighbours)).double().mean() for rows, others in found]
        return dict(zip(("precision", "recall"), shares, strict=True))


def gaps(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (N, M) of rows (N, D) and (M, D)."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def radii(rows: Tensor, neighbours: int) -> Tensor:
    """Squared distance of each of the rows (N, D) to its k-th nearest neighbour among the others, (N,)."""
    return torch.cat([gaps(part, rows).kthvalue(neighbours + 1).values for part in rows.split(BLOCK)])


def inside(rows: Tensor, others: Tensor, reach: Tensor) -> Tensor:
    """Which rows (N, D) lie in a ball around any of the others (M, D) of squared radius `reach` (M,): (N,) bool."""
    return torch.cat([(gaps(part, others) <= reach).any(1) for part in rows.split(BLOCK)])
