"""Precision, recall and Inception score against torch-fidelity, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.metrics import InceptionScore, PrecisionRecall


def rows(count: int, seed: int, shift: float = 0.0, dim: int = 8) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_equals_torch_fidelity(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_prc")
    monkeypatch.setattr("zoo.metrics.manifold.BLOCK", 32)
    x, y = rows(90, 0), rows(110, 1, 0.6)
    metric = PrecisionRecall(8, neighbours=neighbours)
    for part in x.split(40):
        metric.update(part)
    metric.update(target=y)
    found = metric.compute()
    wanted = theirs.calculate_precision_recall_full(x.double(), y.double(), neighbours)
    assert 0.1 < found["precision"] < 1 and found["precision"] != found["recall"]
    assert (float(found["precision"]), float(found["recall"])) == pytest.approx(wanted, abs=1e-6)


def test_by_hand() -> None:
    """On a line with k = 1 targets reach 1 around 0 and 1, 5 around 6; outputs 2 around 4 and 6, 94 around 100."""
    target = torch.tensor([[0.0], [1.0], [6.0]])
    output = torch.tensor([[4.0], [6.0], [100.0]])
    metric = PrecisionRecall(1, neighbours=1, reference=target)
    metric.update(output, torch.zeros(5, 1))
    found = metric.compute()
    assert float(found["precision"]) == pytest.approx(2 / 3) and float(found["recall"]) == pytest.approx(1 / 3)


def test_too_few_pictures_are_told() -> None:
    metric = PrecisionRecall(8)
    metric.update(rows(3, 0), rows(9, 1))
    assert metric.compute()["precision"].isnan() and metric.notes == ["undefined: 3 neighbours of 3 pictures"]
    with pytest.raises(ValueError, match="neighbours is positive"):
        PrecisionRecall(8, neighbours=0)


def test_score_equals_torch_fidelity() -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_isc")
    logits = rows(97, 0, dim=20) * 2
    metric = InceptionScore(20, splits=5, shuffle=False)
    for part in logits.split(10):
        metric.update(part, torch.zeros(1, 20))
    found = metric.compute()
    wanted = theirs.isc_features_to_metric(logits, 5, False, 0)
    assert float(found["mean"]) == pytest.approx(wanted["inception_score_mean"], rel=1e-9)
    assert float(found["std"]) == pytest.approx(wanted["inception_score_std"], rel=1e-9)
    assert metric.notes[0].startswith("biased: 97 pictures in 5 splits")


def test_score_of_certain_pictures_is_the_number_of_classes() -> None:
    logits = 100 * torch.eye(10).repeat(30, 1)
    by_order, shuffled = InceptionScore(10, splits=3, shuffle=False), InceptionScore(10, splits=3)
    for metric in (by_order, shuffled):
        metric.update(logits)
    assert float(by_order.compute()["mean"]) == pytest.approx(10)
    assert 9 < float(shuffled.compute()["mean"]) < 10, "splits hold the classes in slightly different numbers"
    sideways = InceptionScore(10, splits=3, shuffle=False)
    sideways.update(logits[logits.argmax(1).argsort()])
    assert float(sideways.compute()["mean"]) < 5, "pictures sorted by class score low in the given order"


def test_score_does_not_depend_on_batches() -> None:
    logits = rows(64, 2, dim=10)
    found = []
    for order in (torch.arange(64), torch.randperm(64)):
        metric = InceptionScore(10, splits=4)
        for part in logits[order].split(9):
            metric.update(part)
        found.append(metric.compute())
    assert found[0] == found[1]
    assert InceptionScore(10).compute()["mean"].isnan()
    single = InceptionScore(10)
    single.update(logits[:3])
    np.testing.assert_allclose(single.compute()["mean"], 1, rtol=1e-12)
    with pytest.raises(ValueError, match="splits is positive"):
        InceptionScore(10, splits=0)
