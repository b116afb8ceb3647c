"""Frechet distance of two sets of pictures: FID, sFID, and the like on any features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.feature_sets import FeatureMetric
from zoo.metrics.features import Features

__all__ = ["FrechetDistance", "Moments", "frechet_distance"]


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, over n - 1.
        count: rows they are from; None where that is not known.
        origin: where they come from, as plain data, such as the digest of a file.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    origin: str = ""

    @classmethod
    def of_sums(cls, count: Tensor, total: Tensor, outer: Tensor) -> Moments:
        """Moments of `count` rows whose sum and sum of outer products are given, in float64."""
        mean = total / count
        return cls(mean, (outer - count * torch.outer(mean, mean)) / (count - 1), int(count))


def frechet_distance(first: Moments, second: Moments) -> Tensor:
    """Squared Wasserstein-2 distance of two Gaussians (Dowson and Landau 1982; FID: arXiv 1706.08500, Eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). With C1 = A A^T the trace of the root is that of (A^T C2 A)^(1/2): two
    eigenvalue problems of symmetric matrices, which are defined for singular covariances too. A has as many columns as
    C1 has eigenvalues above rounding.

    Returns:
        () float64, at least 0 up to rounding.

    Raises:
        ValueError: moments of different dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"expected moments of one dimension, got {len(first.mean)} and {len(second.mean)}")
    mean, covariance = (x.to(first.mean) for x in (second.mean, second.covariance))
    values, vectors = torch.linalg.eigh(first.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    factor = vectors[:, kept] * values[kept].sqrt()
    cross = torch.linalg.eigvalsh(factor.T @ covariance @ factor).clamp_min(0).sqrt().sum()
    return (first.mean - mean).square().sum() + first.covariance.trace() + covariance.trace() - 2 * cross


class FrechetDistance(FeatureMetric):
    """Frechet distance between outputs and targets, or outputs and given moments; lower is better.

    Sums and sums of outer products are kept in float64 and added over ranks, so the value is the same for any batches
    and number of processes. On the "pool" tap of `inception_fid` it is FID, on "spatial" sFID (arXiv 2103.03841).

    With no more pictures than features the covariances are singular. The distance is still defined and is given, with
    a note; but it is far above that of many pictures, and only comparable at the same number of them.

    Args:
        features: a tap of a network, or an int D for rows.
        reference: moments to compare with instead of targets.
        minimum: refuse to compute of fewer outputs; at least 2.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: moments of another dimension than the features.
    """

    higher_is_better = False

    total: Tensor
    outer: Tensor
    target_total: Tensor
    target_outer: Tensor

    def __init__(
        self, features: Features | int, *, reference: Moments | None = None, minimum: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(features, **kwargs)
        if reference is not None and len(reference.mean) != self.dim:
            raise ValueError(
                f"the reference has moments of {len(reference.mean)} features, {self._name()} gives {self.dim}; use "
                "the network that the reference was made with"
            )
        self.reference, self.minimum = reference, max(2, minimum)
        for side in ("", "target_") if reference is None else ("",):
            self.add_state(f"{side}total", torch.zeros(self.dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}outer", torch.zeros(self.dim, self.dim, dtype=torch.float64), dist_reduce_fx="sum")

    def add_output(self, rows: Tensor) -> None:
        """Add to the sums."""
        rows = rows.double()
        self.total += rows.sum(0)
        self.outer.addmm_(rows.T, rows)

    def add_target(self, rows: Tensor) -> None:
        """Add to the sums, unless there is a reference."""
        if self.reference is None:
            rows = rows.double()
            self.target_total += rows.sum(0)
            self.target_outer.addmm_(rows.T, rows)

    def moments(self) -> Moments:
        """Of the outputs seen."""
        return Moments.of_sums(self.count, self.total, self.outer)

    def compute(self) -> Tensor:
        """() float64; NaN where nothing was measured.

        Raises:
            ValueError: fewer than `minimum` outputs, or than two targets.
        """
        self.notes = []
        if int(self.count) == 0:
            return torch.tensor(torch.nan, dtype=torch.float64)
        seen = [int(self.count)] + ([int(self.target_count)] if self.reference is None else [])
        if seen[0] < self.minimum or min(seen) < 2:
            raise ValueError(
                f"{self._name()}: a Frechet distance needs at least {self.minimum} pictures on either side, got "
                f"{' and '.join(map(str, seen))}; measure more"
            )
        theirs = self.reference or Moments.of_sums(self.target_count, self.target_total, self.target_outer)
        if min(seen) <= self.dim:
            self.notes.append(f"singular: {min(seen)} samples for {self.dim} features")
        return frechet_distance(self.moments(), theirs)

    def _name(self) -> str:
        return "FrechetDistance" if self.features is None else self.features.name
