"""Kernel distances against torch-fidelity, torchmetrics and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from zoo.metrics import GaussianDistance, KernelDistance
from zoo.metrics.kernel import squared_discrepancy


def rows(count: int, seed: int, shift: float = 0.0, dim: int = 12) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).abs() + shift


def test_all_pairs_equal_torchmetrics_and_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.kernel.BLOCK", 16)
    x, y = rows(50, 0), rows(50, 1, 0.2)
    found = squared_discrepancy(x, y)
    torch.testing.assert_close(found, poly_mmd(x.double(), y.double()), rtol=1e-9, atol=0)
    theirs = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = x.double().numpy(), y.double().numpy()
    for ours, name in ((True, "unbiased"), (False, "biased")):
        kernels = [theirs.kernel_poly(p, q, verbose=False) for p, q in ((a, a), (a, b), (b, b))]
        assert float(squared_discrepancy(x, y, unbiased=ours)) == pytest.approx(theirs.mmd2(*kernels, mmd_est=name))
        options = {"kid_kernel_rbf_sigma": 3.0, "verbose": False}
        kernels = [theirs.kernel_rbf(p, q, **options) for p, q in ((a, a), (a, b), (b, b))]
        wanted = theirs.mmd2(*kernels, mmd_est=name)
        assert float(squared_discrepancy(x, y, "gaussian", sigma=3.0, unbiased=ours)) == pytest.approx(wanted, rel=1e-8)


def test_closed_forms() -> None:
    """Two points each: kernels by hand. Equal sets: 0 with pairs of a row with itself."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    bell = np.exp(-(np.array([0, 1, 2, 1]) ** 2) / 200)
    between = (np.exp(-4 / 200) + bell[0] + np.exp(-1 / 200) + bell[1]) / 4
    wanted = (2 + 2 * np.exp(-1 / 200)) / 4 + (2 + 2 * np.exp(-4 / 200)) / 4 - 2 * between
    assert float(squared_discrepancy(x, y, "gaussian", unbiased=False)) == pytest.approx(wanted, rel=1e-9)
    assert float(squared_discrepancy(x, x, unbiased=False)) == pytest.approx(0, abs=1e-12)
    cubic = ((0 * 1 + 1) ** 3) + ((2 * 0 + 1) ** 3) - 2 * (1 + 1 + 27 + 1) / 4
    assert float(squared_discrepancy(x, y)) == pytest.approx(cubic)


def test_cmmd_is_the_biased_gaussian_times_a_thousand() -> None:
    """As in the public code of arXiv 2401.09603, written with numpy."""
    x, y = (torch.nn.functional.normalize(rows(30 + seed, seed, seed / 5), dim=1) for seed in (0, 1))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 10**2)).mean())

    a, b = x.double().numpy(), y.double().numpy()
    metric = GaussianDistance(12)
    assert metric.compute().isnan()
    metric.update(x, y)
    wanted = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert float(metric.compute()) == pytest.approx(wanted, rel=1e-6)
    assert metric.protocol == {"kernel": "gaussian", "sigma": 10, "unbiased": False, "scale": 1000}


def test_subsets_are_drawn_the_same_whatever_the_batches() -> None:
    x, y = rows(60, 0), rows(50, 1, 0.3)
    found = []
    for size, order in ((60, torch.arange(60)), (7, torch.randperm(60))):
        metric = KernelDistance(12, subsets=20, subset_size=15, seed=3)
        for part in x[order].split(size):
            metric.update(part)
        metric.update(target=y)
        found.append(metric.compute())
    assert found[0] == found[1] and found[0]["std"] > 0
    whole = KernelDistance(12, subsets=0, reference=y)
    whole.update(x, y[:3])
    exact = whole.compute()
    assert "std" not in exact and float(exact["mean"]) == pytest.approx(float(squared_discrepancy(x, y)))
    error = float(found[0]["std"]) / 20**0.5
    assert abs(float(found[0]["mean"] - exact["mean"])) < 5 * error
    few = KernelDistance(12)
    few.update(x, y)
    assert few.compute() == exact and few.notes == ["all pairs instead of subsets: 60 outputs and 50 targets"]


def test_nothing_and_wrong_options() -> None:
    metric = KernelDistance(12)
    assert metric.compute()["mean"].isnan()
    metric.update(torch.full((3, 12), torch.inf), rows(4, 0))
    assert metric.skipped == 3 and metric.compute()["mean"].isnan()
    with pytest.raises(ValueError, match="subset_size at least 2, got 5 and 1"):
        KernelDistance(12, subsets=5, subset_size=1)
    with pytest.raises(ValueError, match="sigma is positive"):
        GaussianDistance(12, sigma=0)
    with pytest.raises(ValueError, match=r"reference rows \(N, 12\), got \(4, 3\)"):
        KernelDistance(12, reference=torch.zeros(4, 3))
