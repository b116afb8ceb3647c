"""Maximum mean discrepancy of two sets of pictures: KID, CMMD, and the like on any features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.metrics.feature_sets import RowMetric
from zoo.metrics.features import Features

__all__ = ["GaussianDistance", "Kernel", "KernelDistance", "squared_discrepancy"]

Kernel = Literal["cubic", "gaussian"]
BLOCK = 4096
SCALE = 1000  # of CMMD, for values that can be read


def squared_discrepancy(
    x: Tensor, y: Tensor, kernel: Kernel = "cubic", *, sigma: float = 10.0, unbiased: bool = True
) -> Tensor:
    """Squared maximum mean discrepancy of two samples (Gretton et al. 2012).

    Args:
        x: (N, D).
        y: (M, D).
        kernel: "cubic" for (x . y / D + 1)^3, "gaussian" for exp(-|x - y|^2 / (2 sigma^2)).
        sigma: of the Gaussian.
        unbiased: leave out pairs of a row with itself (Eq. 3), so that the mean over samples of one distribution is 0
            and values below 0 occur; else keep them (Eq. 5).

    Returns:
        () float64.
    """
    inside = []
    for rows in (x, y):
        total = _total(rows, rows, kernel, sigma)
        if unbiased:
            length = rows.double().square().sum(1)
            own = (length / rows.shape[1] + 1) ** 3 if kernel == "cubic" else torch.ones_like(length)
            inside.append((total - own.sum()) / (len(rows) * (len(rows) - 1)))
        else:
            inside.append(total / len(rows) ** 2)
    return inside[0] + inside[1] - 2 * _total(x, y, kernel, sigma) / (len(x) * len(y))


def _total(x: Tensor, y: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    """Sum of the kernel over all pairs, in blocks, float64."""
    total = x.new_zeros((), dtype=torch.float64)
    for a in x.split(BLOCK):
        for b in y.split(BLOCK):
            product = a.double() @ b.double().T
            if kernel == "cubic":
                total += (product / x.shape[1] + 1).pow(3).sum()
            else:
                gaps = a.double().square().sum(1)[:, None] + b.double().square().sum(1) - 2 * product
                total += (gaps.clamp_min(0) / (-2 * sigma**2)).exp().sum()
    return total


class KernelDistance(RowMetric):
    """Squared maximum mean discrepancy between outputs and targets with a cubic kernel, unbiased; lower is better.

    On the "pool" tap of `inception_fid` it is KID (arXiv 1801.01401), as torch-fidelity and torchmetrics compute it.
    The estimate of all pairs has the same mean as that of subsets, less noise, and costs N^2.

    Args:
        features: a tap of a network, or an int D for rows.
        subsets: how many are drawn, the same ones whatever the batches and ranks; 0 for all pairs.
        subset_size: rows of either side in a subset. Where there are fewer, all pairs are used, with a note.
        seed: of the draws.
        **kwargs: of `RowMetric`.

    Raises:
        ValueError: numbers out of range.
    """

    higher_is_better = False

    def __init__(
        self, features: Features | int, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(features, **kwargs)
        if subsets < 0 or subset_size < 2:
            raise ValueError(
                f"subsets is at least 0 and subset_size at least 2, got {subsets} and {subset_size}; "
                "0 subsets for all pairs"
            )
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    @property
    def protocol(self) -> dict[str, Any]:
        """Network and estimate."""
        drawn = {"subset_size": self.subset_size, "seed": self.seed} if self.subsets else {}
        return {**super().protocol, "kernel": "cubic", "subsets": self.subsets, **drawn}

    def compute(self) -> dict[str, Tensor]:
        """`mean` and `std` over the subsets, () float64; `mean` alone for all pairs. NaN of under two rows."""
        ours, theirs = self.outputs, self.targets
        self.notes = []
        if min(len(ours), len(theirs)) < 2:
            return {"mean": torch.tensor(torch.nan, dtype=torch.float64)}
        if self.subsets == 0 or min(len(ours), len(theirs)) <= self.subset_size:
            if self.subsets:
                self.notes.append(f"all pairs instead of subsets: {len(ours)} outputs and {len(theirs)} targets")
            return {"mean": squared_discrepancy(ours, theirs)}
        draw = torch.Generator().manual_seed(self.seed)
        drawn = ((self._subset(draw, ours), self._subset(draw, theirs)) for _ in range(self.subsets))
        values = torch.stack([squared_discrepancy(x, y) for x, y in drawn])
        return {"mean": values.mean(), "std": values.std(correction=0)}

    def _subset(self, draw: torch.Generator, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=draw)[: self.subset_size].to(rows.device)]


class GaussianDistance(RowMetric):
    """Squared maximum mean discrepancy with a Gaussian kernel over all pairs, times 1000; lower is better.

    On CLIP's embeddings (`clip_vit_l14_336`) it is CMMD (arXiv 2401.09603), whose public code keeps the pairs of a row
    with itself and has sigma 10.

    Args:
        features: a tap of a network, or an int D for rows.
        sigma: of the kernel.
        unbiased: leave out pairs of a row with itself.
        **kwargs: of `RowMetric`.

    Raises:
        ValueError: sigma is not positive.
    """

    higher_is_better = False

    def __init__(self, features: Features | int, *, sigma: float = 10.0, unbiased: bool = False, **kwargs: Any) -> None:
        super().__init__(features, **kwargs)
        if sigma <= 0:
            raise ValueError(f"sigma is positive, got {sigma}")
        self.sigma, self.unbiased = sigma, unbiased

    @property
    def protocol(self) -> dict[str, Any]:
        """Network, kernel and estimate."""
        return {
            **super().protocol,
            "kernel": "gaussian",
            "sigma": self.sigma,
            "unbiased": self.unbiased,
            "scale": SCALE,
        }

    def compute(self) -> Tensor:
        """() float64; NaN of under two rows."""
        ours, theirs = self.outputs, self.targets
        if min(len(ours), len(theirs)) < 2:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return SCALE * squared_discrepancy(ours, theirs, "gaussian", sigma=self.sigma, unbiased=self.unbiased)
