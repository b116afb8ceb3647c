"""Distances of surfaces and IoU: equal to brute force, and to what is known of spheres and of sampling."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import zoo.metrics.shapes
from zoo.metrics import SurfaceDistance, VolumeIoU, sampling_floor
from zoo.metrics.shapes import nearest

pytest.importorskip("scipy")


def clouds(count: int, points: int, seed: int, *, normals: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(count, points, 3, generator=generator)
    directions = F.normalize(torch.randn(count, points, 3, generator=generator), dim=-1)
    return torch.cat([places, directions], -1) if normals else places


def sphere(points: int, seed: int) -> Tensor:
    """A sampling of the unit sphere (1, points, 3)."""
    return F.normalize(torch.randn(1, points, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def brute_force(ours: Tensor, theirs: Tensor, thresholds: tuple[float, ...]) -> dict[str, float]:
    """The numbers of one pair of clouds (points, 6), pair by pair in plain Python."""
    ways = []
    for cloud, other in ((ours.tolist(), theirs.tolist()), (theirs.tolist(), ours.tolist())):
        pairs = [min((math.dist(point[:3], to[:3]), to) for to in other) for point in cloud]
        matches = [(point[3:], to[3:]) for point, (_, to) in zip(cloud, pairs, strict=True)]
        cosines = [sum(a * b for a, b in zip(*match, strict=True)) for match in matches]
        ways.append(([distance for distance, _ in pairs], cosines))
    means = [sum(distances) / len(distances) for distances, _ in ways]
    found = dict(zip(("accuracy", "completeness"), means, strict=True))
    found |= {"chamfer_sum": sum(means), "chamfer_mean": sum(means) / 2}
    found["chamfer_squared"] = sum(sum(d * d for d in distances) / len(distances) for distances, _ in ways)
    for t in thresholds:
        precision, recall = (sum(d < t for d in distances) / len(distances) for distances, _ in ways)
        found |= {f"precision@{t:g}": precision, f"recall@{t:g}": recall}
        found[f"f_score@{t:g}"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    found["normal_consistency"] = sum(sum(map(abs, cosines)) / len(cosines) for _, cosines in ways) / 2
    found["normal_consistency_signed"] = sum(sum(cosines) / len(cosines) for _, cosines in ways) / 2
    return found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), points=st.integers(1, 12), count=st.integers(1, 4), cut=st.integers(0, 4))
def test_equals_brute_force_whatever_the_batches(seed: int, points: int, count: int, cut: int) -> None:
    thresholds = (0.3, 1.0)
    ours, theirs = clouds(count, points, seed), clouds(count, points, seed + 1)
    metric = SurfaceDistance(points, thresholds, normals=True)
    for part in (slice(None, cut), slice(cut, None)):
        metric.update(ours[part], theirs[part])
    expected = [brute_force(a, b, thresholds) for a, b in zip(ours, theirs, strict=True)]
    found = metric.compute()
    assert list(found) == list(metric.names) and set(found) == set(expected[0])
    for name, value in found.items():
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(sum(one[name] for one in expected) / count, abs=1e-6)


def test_distances_without_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.metrics.shapes, "PAIRS", 100)
    ours, theirs = clouds(2, 37, 0, normals=False)
    tree = nearest(ours, theirs)

    class Elsewhere(Tensor):
        """Says that it is on another device."""

        device = torch.device("meta")

    direct = nearest(ours.as_subclass(Elsewhere), theirs)
    torch.testing.assert_close(direct[0].as_subclass(Tensor), tree[0])
    assert torch.equal(direct[1].as_subclass(Tensor), tree[1])


def test_ranks_add_up() -> None:
    """What torchmetrics does between ranks: states are summed."""
    ours, theirs = clouds(5, 8, 0), clouds(5, 8, 1)
    whole = SurfaceDistance(8, (0.5,), normals=True)
    whole.update(ours, theirs)
    ranks = [copy.deepcopy(whole) for _ in range(2)]
    for rank, part in zip(ranks, (slice(0, 2), slice(2, 5)), strict=True):
        rank.reset()
        rank.update(ours[part], theirs[part])
    merged = copy.deepcopy(ranks[0])
    for name in ("total", "count", "skipped"):
        assert merged._reductions[name](torch.stack([getattr(rank, name) for rank in ranks])) is not None
        setattr(merged, name, sum(getattr(rank, name) for rank in ranks))
    torch.testing.assert_close(merged.compute(), whole.compute(), rtol=1e-14, atol=0)
    assert int(merged.count) == 5


def test_concentric_spheres() -> None:
    metric = SurfaceDistance(4000, (0.05, 0.15), normals=True)
    normals = sphere(4000, 0)
    metric.update(torch.cat([normals * 0.9, normals], -1), torch.cat([normals, normals], -1))
    found = metric.compute()
    assert float(found["chamfer_mean"]) == pytest.approx(0.1, abs=0.005)
    assert float(found["chamfer_sum"]) == pytest.approx(2 * float(found["chamfer_mean"]))
    assert float(found["chamfer_squared"]) == pytest.approx(2 * 0.01, abs=0.001)
    assert found["f_score@0.05"] == 0 and found["f_score@0.15"] == 1
    assert float(found["normal_consistency_signed"]) > 0.99
    metric.reset()
    metric.update(torch.cat([normals * 0.9, -normals], -1), torch.cat([normals, normals], -1))
    found = metric.compute()
    assert float(found["normal_consistency"]) > 0.99 and float(found["normal_consistency_signed"]) < -0.99


def test_sampling_floor_of_the_unit_sphere() -> None:
    """Values of the specification, of two samplings of the same sphere."""
    metric = SurfaceDistance(2048, (0.02,))
    floor = sampling_floor(metric, lambda seed: sphere(2048, seed))
    assert float(floor["chamfer_sum"]) == pytest.approx(0.0794, rel=0.04)
    assert float(floor["f_score@0.02"]) == pytest.approx(0.19, abs=0.03)
    more = sampling_floor(SurfaceDistance(10_000, (0.01, 0.02)), lambda seed: sphere(10_000, seed))
    assert float(more["chamfer_sum"]) == pytest.approx(0.0355, rel=0.04)
    assert float(more["f_score@0.02"]) == pytest.approx(0.636, abs=0.03)
    assert float(more["f_score@0.01"]) == pytest.approx(0.224, abs=0.03)
    assert int(metric.count) == 0


def test_shapes_without_surface_are_counted() -> None:
    ours, theirs = clouds(3, 8, 0, normals=False), clouds(3, 8, 1, normals=False)
    metric, without = SurfaceDistance(8), SurfaceDistance(8)
    metric.update(torch.cat([ours, torch.full((1, 8, 3), torch.nan)]), torch.cat([theirs, theirs[:1]]))
    without.update(ours, theirs)
    assert (int(metric.count), int(metric.skipped)) == (3, 1)
    assert metric.compute() == without.compute()
    metric.reset()
    metric.update(ours[:0], theirs[:0])
    assert all(value.isnan() for value in metric.compute().values())


def test_protocol_goes_with_the_numbers() -> None:
    protocol = SurfaceDistance(8, (0.5,), frame="unit sphere").protocol
    assert protocol == {"points": 8, "thresholds": [0.5], "frame": "unit sphere", "distance": "L2, to nearest point"}
    assert VolumeIoU(0.5).protocol == {"level": 0.5}


@pytest.mark.parametrize("shape", [(1, 7, 3), (1, 8, 6), (8, 3)])
def test_other_counts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects two clouds \(B, 8, 3\)"):
        SurfaceDistance(8).update(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="positive"):
        SurfaceDistance(8, (0.0,))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), queries=st.integers(1, 30), level=st.sampled_from([0.0, 0.4]))
def test_iou_equals_counting(seed: int, queries: int, level: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    output, values = torch.randn(2, 3, queries, generator=generator)
    mask = torch.rand(3, queries, generator=generator) < 0.7
    metric = VolumeIoU(level)
    for part in (slice(0, 1), slice(1, 3)):
        metric.update(output[part], values[part], mask[part])
    shares = []
    for ours, theirs, counts in zip(output.tolist(), values.tolist(), mask.tolist(), strict=True):
        pairs = [(a > level, b > 0) for a, b, counted in zip(ours, theirs, counts, strict=True) if counted]
        if either := sum(a or b for a, b in pairs):
            shares.append(sum(a and b for a, b in pairs) / either)
    assert (int(metric.count), int(metric.skipped)) == (len(shares), 3 - len(shares))
    if shares:
        assert float(metric.compute()) == pytest.approx(sum(shares) / len(shares), abs=1e-12)


def test_iou_of_occupancy_and_distance_agree() -> None:
    depth = torch.randn(2, 100)
    found = []
    for values in (depth, (depth > 0).float()):
        metric = VolumeIoU()
        metric.update(depth + 0.3, values)
        found.append(metric.compute())
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="one shape"):
        VolumeIoU().update(depth, depth[:1])
