"""Objectives of fields, on spheres whose distances are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from encoders.layers.voxels import voxelize
from quantizers import Quantized
from zoo.data.shapes_batch import Shapes
from zoo.objectives import DistanceObjective, GridObjective, OccupancyObjective
from zoo.tokenizer import Reconstruction

RADIUS = 0.6


def spheres(*, distances: bool = False, queries: int = 300, points: int = 200) -> Shapes:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(2, queries, 3, generator=generator) * 2 - 1
    normals = F.normalize(torch.randn(2, points, 3, generator=generator), dim=-1)
    depth = RADIUS - places.norm(dim=-1)
    near = depth.abs() < 0.1
    return Shapes(torch.cat([normals * RADIUS, normals], -1), places, depth if distances else (depth > 0).float(), near)


def answer(output: Tensor, loss: float = 0.5) -> Reconstruction:
    empty = torch.zeros(len(output), 1, 1)
    return Reconstruction(output, Quantized(empty, empty.long(), torch.tensor(loss), {}))


def test_occupancy_terms_and_total() -> None:
    x = spheres()
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(1))
    terms = OccupancyObjective(volume=2.0, near=0.1, dice=3.0, quantizer=0.2)(x, answer(logits))
    inside = x.values > 0
    for name, mask in (("volume", ~x.near), ("near", x.near)):
        torch.testing.assert_close(terms[name], F.binary_cross_entropy_with_logits(logits[mask], inside[mask].float()))
    share = logits.sigmoid()
    dice = 1 - (2 * share[inside].sum() + 1) / (share.sum() + inside.sum() + 1)
    torch.testing.assert_close(terms["dice"], dice)
    torch.testing.assert_close(terms["loss"], 2 * terms["volume"] + 0.1 * terms["near"] + 3 * dice + 0.2 * 0.5)
    assert "dice" not in OccupancyObjective()(x, answer(logits))


def test_distances_count_as_occupancy() -> None:
    logits = torch.randn(2, 300)
    both = [OccupancyObjective()(spheres(distances=kind), answer(logits))["loss"] for kind in (False, True)]
    assert both[0] == both[1]


def test_the_true_field_has_no_distance_error() -> None:
    x = spheres(distances=True)
    objective = DistanceObjective(points=100)
    queries = objective.queries(x)
    assert queries.shape == (2, 300 + 100 + 3 * 100, 3)
    terms = objective(x, answer(RADIUS - queries.norm(dim=-1), 0.0))
    assert all(float(terms[name]) < 1e-5 for name in ("volume", "near", "surface"))
    assert float(terms["eikonal"]) < 1e-3  # differences over a step, on a curved field
    steeper = objective(x, answer(2 * (RADIUS - queries.norm(dim=-1))))
    assert float(steeper["eikonal"]) == pytest.approx(1, abs=0.1)
    plain = DistanceObjective(surface=0.0, eikonal=0.0)
    assert torch.equal(plain.queries(x), x.queries)
    assert set(plain(x, answer(x.values))) == {"volume", "near", "quantizer", "loss"}


def test_errors_and_weights_of_distances() -> None:
    x = spheres(distances=True)
    output = x.values + 0.2
    l1, l2 = (DistanceObjective(surface=0, eikonal=0, norm=norm)(x, answer(output)) for norm in ("l1", "l2"))
    torch.testing.assert_close(l1["volume"], torch.tensor(0.2))
    torch.testing.assert_close(l2["near"], torch.tensor(0.04))
    torch.testing.assert_close(l1["loss"], torch.tensor(0.2 + 10 * 0.2 + 0.5))
    cut = DistanceObjective(surface=0, eikonal=0, truncation=0.05)(x, answer(x.values * 9))
    assert float(cut["volume"]) == 0 < float(cut["near"])


def test_grid_of_cells_that_the_cloud_touches() -> None:
    x = spheres(points=20_000)
    objective = GridObjective(resolution=8)
    targets = objective.targets(x)
    assert torch.equal(targets.values.view(2, 8, 8, 8), voxelize(x.points[..., :3], 8))
    touched = targets.queries[targets.values > 0].norm(dim=-1)
    cell = 2 / 8
    assert (touched - RADIUS).abs().max() <= cell * 3**0.5 / 2
    assert targets.values.mean() > 0.1
    logits = (targets.values * 2 - 1) * 20
    terms = objective(targets, answer(logits))
    assert float(terms["dice"]) < 1e-3
    assert float(objective(targets, answer(-logits))["dice"]) > 0.99


def test_voxels_are_indexed_x_y_z() -> None:
    grid = voxelize(torch.tensor([[[-0.9, 0.1, 0.6], [5.0, 5.0, 5.0]]]), 4)
    assert grid.nonzero().tolist() == [[0, 0, 2, 3], [0, 3, 3, 3]]


def test_gradients_reach_the_output() -> None:
    x = spheres(distances=True)
    for objective in (OccupancyObjective(dice=1.0), DistanceObjective()):
        output = torch.randn(objective.queries(x).shape[:2], requires_grad=True)
        objective(x, answer(output))["loss"].backward()
        assert output.grad is not None and output.grad.count_nonzero() > output.numel() * 0.6


def test_wrong_outputs_and_options_are_named() -> None:
    x = spheres()
    with pytest.raises(ValueError, match="300 queries"):
        OccupancyObjective()(x, answer(torch.zeros(2, 299)))
    with pytest.raises(ValueError, match="l1 or l2"):
        DistanceObjective(norm="l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        DistanceObjective(delta=0)
    with pytest.raises(ValueError, match="Shapes expects"):
        Shapes(x.points, x.queries, x.values[:, :3], x.near)


def test_batches_are_cut_and_moved() -> None:
    x = spheres()
    assert len(x) == 2 and len(x[:1]) == 1
    moved = x.to("meta")
    assert all(tensor.is_meta for tensor in moved.tensors())
    assert moved.near.dtype == torch.bool
