"""Samples of prepared shapes: sources, order, placement, augmentation, damage."""

from __future__ import annotations

import json
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.data import ShapeData
from zoo.data.shape_draws import ShapeDraws, choose, turned
from zoo.data.shapes_batch import Shapes
from zoo.data.sources import SHAPES, FolderSource
from zoo.shapes.prepared import parse_prepared

SAMPLES = Path(__file__).parents[2] / "docs" / "assets" / "shapes" / "prepared"


def data(root: Path | str = SAMPLES, **options: Any) -> ShapeData:
    settings = {"points": 64, "volume": 128, "near": 32, "batch_size": 4, "num_workers": 0, "val_fraction": 0.0}
    return ShapeData(str(root), **{**settings, **options})


def batches(source: ShapeData, count: int) -> list[Shapes]:
    source.setup()
    return list(islice(source.train_dataloader(), count))


def equal(left: list[Shapes], right: list[Shapes]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(*both) for one, two in pairs for both in zip(one.tensors(), two.tensors(), strict=True))


def draws(**options: Any) -> ShapeDraws:
    source = FolderSource(SAMPLES, SHAPES)
    settings = {"points": 500, "volume": 1000, "near": 300, **options}
    return ShapeDraws(source, range(len(source.names)), **settings)


def named(name: str) -> int:
    return FolderSource(SAMPLES, SHAPES).names.index(f"{name}.safetensors")


def test_batches_repeat_and_depend_on_the_seed() -> None:
    first = batches(data(channels=6), 3)
    for batch in first:
        assert batch.points.shape == (4, 64, 6) and batch.queries.shape == (4, 160, 3)
        assert batch.near.sum(1).tolist() == [32] * 4 and not batch.near[:, :128].any()
        assert all(tensor.dtype == torch.float32 for tensor in (batch.points, batch.queries, batch.values))
        assert set(batch.values.unique().tolist()) == {0.0, 1.0}
        torch.testing.assert_close(batch.points[..., 3:].norm(dim=-1), torch.ones(4, 64))
    assert equal(first, batches(data(channels=6), 3))
    assert not torch.equal(first[0].points, batches(data(channels=6, seed=1), 1)[0].points)


def test_workers_and_memory_change_nothing() -> None:
    options = {"stretch": [0.75, 1.25], "symmetry": "cube", "jitter": 0.01, "sharp": 0.5, "placement": "box"}
    first = batches(data(**options), 3)
    assert equal(first, batches(data(**options, num_workers=2), 3))
    assert equal(first, batches(data(**options, cache="ram"), 3))


def test_shards_hold_the_same_shapes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shapes-0000.tar", "w") as shard:
        for path in sorted(SAMPLES.glob("*.safetensors")):
            shard.add(path, path.name)
    assert equal(batches(data(), 2), batches(data(tmp_path), 2))


def test_values_belong_to_their_queries() -> None:
    name = named("bedside_table")
    batch, distances = draws()[(name, 3)], draws(target="sdf")[(name, 3)]
    assert torch.equal(batch.queries, distances.queries)
    clear = distances.values.abs() > 1e-3
    assert torch.equal((distances.values > 0)[clear], (batch.values > 0)[clear])
    away = torch.cdist(distances.queries, draws(points=4096)[(name, 0)].points).amin(-1)
    assert ((away - distances.values.abs()) > -2e-3).all()  # points of the surface are no nearer than the surface
    assert float((away - distances.values.abs()).mean()) < 0.03
    assert batch.near.sum() == 300 and float(distances.values[batch.near].abs().mean()) < 0.05


@pytest.mark.parametrize(("placement", "extent"), [("box", 1.0), ("box", 0.5), ("sphere", 1.0), ("none", 1.0)])
@pytest.mark.parametrize("stretch", [None, (0.75, 1.25)])
def test_shapes_fill_the_frame_as_told(placement: str, extent: float, stretch: tuple[float, float] | None) -> None:
    batch = draws(points=4096, placement=placement, extent=extent, stretch=stretch)[(named("horse"), 5)]
    size = batch.points.abs().max() if placement == "box" else batch.points.norm(dim=-1).max()
    if placement != "none":
        assert float(size) == pytest.approx(extent, rel=0.02)
    volume = batch.queries[~batch.near]
    assert volume.abs().max() <= 1 and (volume.abs().amax(0) > 0.95).all()  # the cube is covered to its ends
    assert volume.mean(0).abs().max() < 0.1 and (volume.std(0) - 3**-0.5).abs().max() < 0.05


def test_distances_grow_with_the_shape() -> None:
    small, large = (draws(target="sdf", placement="box", extent=extent)[(0, 2)] for extent in (0.475, 0.95))
    chosen = small.near
    torch.testing.assert_close(small.queries[chosen] * 2, large.queries[chosen], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.values[chosen] * 2, large.values[chosen], rtol=1e-4, atol=1e-5)


def test_a_larger_cube_is_empty_around_the_shape() -> None:
    batch = draws(bounds=1.25, volume=4000)[(named("blob_007"), 0)]
    volume, values = batch.queries[~batch.near], batch.values[~batch.near]
    outer = (volume.abs() > 1).any(-1)
    assert float(outer.float().mean()) == pytest.approx(1 - 0.8**3, abs=0.03) and values[outer].sum() == 0


def test_views_keep_what_belongs_together() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    for symmetry, most in (("upright", 8), ("cube", 48)):
        views = set()
        for seed in range(400):
            one, two = turned((points, points * 2), symmetry, np.random.default_rng(seed))  # type: ignore[arg-type]
            assert np.array_equal(one * 2, two)
            np.testing.assert_allclose(np.linalg.norm(one, axis=1), np.linalg.norm(points, axis=1))
            assert symmetry != "upright" or np.array_equal(one[:, 1], points[:, 1])
            views.add(one.tobytes())
        assert len(views) == most


def test_normals_stay_on_the_surface_when_it_is_stretched() -> None:
    """On the flat sides of a box they point along an axis however it is stretched."""
    index = named("bedside_table")
    flat = parse_prepared(FolderSource(SAMPLES, SHAPES).read(index))["normals"]
    straight = draws(channels=6, stretch=(0.5, 2.0), points=4096)[(index, 1)].points[0, :, 3:].abs().amax(1) > 0.999
    assert float(straight.float().mean()) >= (np.abs(flat).max(1) > 0.999).mean() - 1e-6


def test_sharp_points_and_jitter() -> None:
    index = named("bedside_table")
    plain, sharp = draws(channels=6)[(index, 0)], draws(channels=6, sharp=1.0)[(index, 0)]
    straight = [float((batch.points[0, :, 3:].abs().amax(1) > 0.99).float().mean()) for batch in (plain, sharp)]
    assert straight[0] > 0.9 and straight[1] < 0.5
    moved = draws(channels=6, jitter=0.01)[(index, 0)]
    noise = moved.points - plain.points
    assert float(noise[..., :3].std()) == pytest.approx(0.01, rel=0.1) and not noise[..., 3:].any()
    assert torch.equal(moved.queries, plain.queries)


def test_more_than_is_stored_is_drawn_again() -> None:
    assert draws(points=9000, near=5000)[(0, 0)].points.shape == (1, 9000, 3)
    rng = np.random.default_rng(0)
    assert len(set(choose(10, 10, rng).tolist())) == 10 and choose(3, 8, rng).max() < 3 and len(choose(5, 0, rng)) == 0


def test_validation_is_fixed_and_not_augmented() -> None:
    source = data(val_fraction=0.3, val_size=6, stretch=[0.5, 2.0], jitter=0.1, symmetry="cube")
    source.setup()
    first, second = (list(source.val_dataloader()) for _ in range(2))
    assert equal(first, second) and sum(map(len, first)) == 6
    assert all(batch.points.abs().max() <= 0.951 for batch in first)


def test_damaged_files_are_recorded_and_replaced(tmp_path: Path) -> None:
    for path in sorted(SAMPLES.glob("b*.safetensors")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.safetensors").write_bytes(b"not a shape")
    (tmp_path / "cut.safetensors").write_bytes((SAMPLES / "horse.safetensors").read_bytes()[:5000])
    source = data(tmp_path)
    source.record_errors(tmp_path / "errors.jsonl")
    batches(source, 4)
    found = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert sorted(record["item"] for record in found) == ["broken.safetensors", "cut.safetensors"]
    assert all("damaged, or no prepared shape" in record["error"] for record in found)
    for path in tmp_path.glob("b*_*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 6 prepared shapes can be read"):
        batches(data(tmp_path), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "inside"}, "data.target is one of occupancy, sdf, got 'inside'"),
        ({"symmetry": "all"}, "data.symmetry is one of none, upright, cube"),
        ({"placement": "cube"}, "data.placement is one of box, sphere, none"),
        ({"channels": 4}, "data.channels is 3 or 6"),
        ({"volume": 0, "near": 0}, "nor both 0"),
        ({"sharp": 2.0}, r"data.sharp is in \[0, 1\]"),
        ({"stretch": [1.2, 0.8]}, r"data.stretch is \[low, high\]"),
        ({"stretch": [0.8, 1.2], "target": "sdf"}, "use data.target=occupancy"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(**options)


def test_a_folder_without_shapes_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no prepared shapes"):
        batches(data(tmp_path), 1)
