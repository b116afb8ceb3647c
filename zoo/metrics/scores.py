"""Inception score of a set of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from zoo.metrics.feature_sets import RowMetric
from zoo.metrics.features import Features

__all__ = ["InceptionScore"]


class InceptionScore(RowMetric):
    """Inception score (arXiv 1606.03498): exp of the mean divergence of p(class | picture) from its mean over a split.

    Higher is better. Of reconstructions it is called rIS. It needs no targets.

    Args:
        features: the "logits" tap of `inception_fid`, without bias as in ADM's evaluator and torch-fidelity; or an int.
        splits: parts of equal size whose scores are averaged; no more than there are pictures. Published numbers have
            10 of 5000 each.
        shuffle: put pictures into a drawn order first (torch-fidelity), the same whatever the batches and ranks; else
            they stay in the given order (ADM), where splits of pictures sorted by class score low.
        seed: of the order.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: splits is not positive.
    """

    higher_is_better = True

    def __init__(
        self, features: Features | int, *, splits: int = 10, shuffle: bool = True, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(features, **kwargs)
        if splits < 1:
            raise ValueError(f"splits is positive, got {splits}")
        self.splits, self.shuffle, self.seed = splits, shuffle, seed

    @property
    def protocol(self) -> dict[str, Any]:
        """Network, splits and order."""
        order = {"seed": self.seed} if self.shuffle else {}
        return {**super().protocol, "splits": self.splits, "shuffle": self.shuffle, **order}

    def add_target(self, rows: Tensor) -> None:
        """Targets have no part in the score."""

    def compute(self) -> dict[str, Tensor]:
        """`mean` and `std` over the splits, () float64, at least 1; NaN where nothing was measured."""
        rows = self.outputs if self.shuffle else dim_zero_cat(self.output_rows)
        self.notes = []
        if len(rows) == 0:
            return dict.fromkeys(("mean", "std"), torch.tensor(torch.nan, dtype=torch.float64))
        if self.shuffle:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
            rows = rows[order.to(rows.device)]
        splits = min(self.splits, len(rows))
        if len(rows) < 5000 * splits:
            self.notes.append(f"biased: {len(rows)} pictures in {splits} splits, published scores have 5000 in each")
        values = torch.stack(
            [score(rows[len(rows) * i // splits : len(rows) * (i + 1) // splits]) for i in range(splits)]
        )
        return {"mean": values.mean(), "std": values.std(correction=0)}


def score(logits: Tensor) -> Tensor:
    """Score () float64 of the pictures of one split, logits (N, classes)."""
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - torch.tensor(len(logits), dtype=torch.float64, device=logits.device).log()
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp()
