"""Frechet distance against closed forms, scipy, torch-fidelity and clean-fid; and over ranks, with the other kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.metrics import (
    PSNR,
    Features,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Moments,
    PrecisionRecall,
    frechet_distance,
)

ROOT = Path(__file__).parents[2]


def rows(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features, all positive like those after a ReLU and a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator) / dim**0.5
    return (torch.randn(count, dim, generator=generator) @ mixing).abs() + shift


def of(x: Tensor) -> Moments:
    metric = FrechetDistance(x.shape[1])
    metric.update(x)
    return metric.moments()


def test_closed_form_of_gaussians_with_equal_axes() -> None:
    """For covariances that commute the distance is |m1 - m2|^2 + |s1 - s2|^2 in standard deviations s."""
    means = torch.tensor([[0.0, 1, 2], [1, 1, -1]], dtype=torch.float64)
    spreads = torch.tensor([[1.0, 2, 0], [3, 2, 0.5]], dtype=torch.float64)
    axes, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    first, second = (Moments(m, axes @ torch.diag(s**2) @ axes.T) for m, s in zip(means, spreads, strict=True))
    wanted = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    torch.testing.assert_close(frechet_distance(first, second), wanted)
    torch.testing.assert_close(frechet_distance(second, first), wanted)
    assert float(frechet_distance(first, first)) == pytest.approx(0, abs=1e-7)


@given(dim=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_equals_the_matrix_root_of_scipy(dim: int, seed: int) -> None:
    x, y = rows(4 * dim + 8, dim, seed), rows(5 * dim + 9, dim, seed + 1, 0.3)
    metric = FrechetDistance(dim)
    for part in x.split(7):
        metric.update(part)
    for part in y.split(11):
        metric.update(target=part)
    a, b = x.double().numpy(), y.double().numpy()
    c, d = (np.cov(z, rowvar=False).reshape(dim, dim) for z in (a, b))
    gap = a.mean(0) - b.mean(0)
    wanted = gap @ gap + np.trace(c) + np.trace(d) - 2 * np.trace(scipy.linalg.sqrtm(c @ d)).real
    assert float(metric.compute()) == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    assert metric.notes == []


@pytest.mark.parametrize("count", [400, 40])
def test_equals_torch_fidelity_and_clean_fid(count: int) -> None:
    """Also where covariances are singular, to the accuracy of a root of rounding errors."""
    theirs = pytest.importorskip("torch_fidelity.metric_fid")
    cleanfid = pytest.importorskip("cleanfid.fid")
    x, y = rows(count, 96, 0).double(), rows(count, 96, 1, 0.2).double()
    metric = FrechetDistance(96)
    metric.update(x, y)
    statistics = [theirs.fid_features_to_statistics(z) for z in (x, y)]
    found = float(metric.compute())
    tolerance = 1e-6 if count > 96 else 1e-5
    assert found == pytest.approx(
        theirs.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"], rel=tolerance
    )
    if count > 96:
        parts = [value for one in statistics for value in (one["mu"], one["sigma"])]
        assert found == pytest.approx(frechet_of_clean_fid(cleanfid, parts), rel=1e-6)
    assert metric.notes == ([] if count > 96 else ["singular: 40 samples for 96 features"])


def frechet_of_clean_fid(module: object, parts: list[np.ndarray]) -> float:
    """clean-fid asks scipy for a second result that newer ones do not give."""
    linalg = type("Linalg", (), {"sqrtm": staticmethod(lambda x, disp=True: (scipy.linalg.sqrtm(x), 0))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "linalg", linalg)
        return float(module.frechet_distance(*parts))  # type: ignore[attr-defined]


def test_given_moments_replace_targets() -> None:
    x, y = rows(50, 8, 0), rows(70, 8, 1)
    both, one = FrechetDistance(8), FrechetDistance(8, reference=of(y))
    both.update(x, y)
    one.update(x, rows(5, 8, 2))
    assert one.compute() == both.compute()
    with pytest.raises(ValueError, match="moments of 8 features, FrechetDistance gives 9"):
        FrechetDistance(9, reference=of(y))
    with pytest.raises(ValueError, match="one dimension, got 8 and 4"):
        frechet_distance(of(x), of(x[:, :4]))


def test_pictures_are_looked_at_and_bad_ones_left_out() -> None:
    features = Features.of(lambda x: x.mean((2, 3)), 3, "means")
    metric, alone = FrechetDistance(features), FrechetDistance(features)
    x, y = (torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    bad = torch.cat((x, torch.full((2, 3, 4, 4), torch.nan)))
    metric.update(bad, y)
    alone.update(x, y)
    assert metric.compute() == alone.compute() and metric.skipped == 2 and metric.count == 9
    assert metric.protocol["network"] == "means" and metric.state_dict() == {}


def test_too_few_samples_are_refused_or_told() -> None:
    metric = FrechetDistance(4, minimum=10)
    assert metric.compute().isnan()
    metric.update(rows(9, 4, 0), rows(30, 4, 1))
    with pytest.raises(ValueError, match="at least 10 pictures on either side, got 9 and 30"):
        metric.compute()
    metric.update(rows(1, 4, 2))
    assert metric.compute() > 0 and metric.notes == []
    single = FrechetDistance(4)
    single.update(rows(1, 4, 0), rows(5, 4, 0))
    with pytest.raises(ValueError, match="at least 2 pictures"):
        single.compute()
    with pytest.raises(ValueError, match=r"features \(B, 4\), got \(3, 5\)"):
        single.update(rows(3, 5, 0))


RANK = """
import sys
import torch
import torch.distributed as dist
from zoo.metrics import PSNR, FrechetDistance, InceptionScore, KernelDistance, PrecisionRecall

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x, y = torch.load(f"{folder}/rows.pt")
found = []
metrics = [FrechetDistance(6), KernelDistance(6, subsets=5, subset_size=10), PrecisionRecall(6), InceptionScore(6)]
for used in (len(x), 1):  # in the second round, rank 1 sees nothing
    for metric in metrics:
        metric.reset()
        if used > 1 or rank == 0:
            for batch, target in zip(x[rank:used:2].split(3), y[rank:used:2].split(3)):
                metric.update(batch, target)
        try:
            found.append(metric.compute())
        except ValueError as error:
            found.append(str(error))
picture = PSNR()
if rank == 0:
    picture.update(x[:4].reshape(2, 3, 2, 2), y[:4].reshape(2, 3, 2, 2))
found.append(picture.compute())
torch.save(found, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_measure_together(tmp_path: Path) -> None:
    x, y = rows(41, 6, 0), rows(41, 6, 1, 0.1)
    torch.save((x, y), tmp_path / "rows.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    metrics = [FrechetDistance(6), KernelDistance(6, subsets=5, subset_size=10), PrecisionRecall(6), InceptionScore(6)]
    alone: list[object] = []
    for used in (len(x), 1):
        for metric in metrics:
            metric.reset()
            metric.update(x[:used], y[:used])
            try:
                alone.append(metric.compute())
            except ValueError as error:
                alone.append(str(error))
    picture = PSNR()
    picture.update(x[:4].reshape(2, 3, 2, 2), y[:4].reshape(2, 3, 2, 2))
    alone.append(picture.compute())
    for rank in range(2):
        for ours, theirs in zip(torch.load(tmp_path / f"rank{rank}.pt"), alone, strict=True):
            if isinstance(theirs, str):
                assert ours == theirs
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, equal_nan=True)
