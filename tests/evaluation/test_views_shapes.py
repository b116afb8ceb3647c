"""Shapes in an evaluation: the same points whoever asks, frames that protocols share, floors beside numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.evaluation.measures import measure
from zoo.evaluation.measures.base import Context
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Passage
from zoo.evaluation.protocols import list_protocols, protocol
from zoo.evaluation.views.shapes import ShapeItem, ShapeOptions, ShapeView
from zoo.families.shape import Field, ShapeTokenizer
from zoo.metrics.shapes import SurfaceDistance, SurfaceFidelity, sampling_floor

for package in ("trimesh", "igl", "skimage", "scipy"):
    pytest.importorskip(package)

ASSETS = Path(__file__).parents[1] / "assets"
SMALL = {"points": 512, "queries": 4000, "resolution": 32, "surface": 2000}


@pytest.fixture(scope="module")
def tokenizer() -> ShapeTokenizer:
    torch.manual_seed(0)
    found = zoo.build("vecset_fsq_tiny").eval()
    assert isinstance(found, ShapeTokenizer)
    return found


def view(tokenizer: ShapeTokenizer, *, surfaces: bool = True, seed: int = 0, **options: Any) -> ShapeView:
    return ShapeView(Passage(tokenizer), {**SMALL, **options}, surfaces=surfaces, seed=seed)


def item(of: ShapeView, name: str = "blob.obj") -> ShapeItem:
    return of.read((ASSETS / name).read_bytes(), name)


def capsule(of: ShapeView) -> ShapeItem:
    """A shape without walls inside, which fields do not have."""
    import trimesh

    return of.read(trimesh.creation.capsule(1.0, 0.4).export(file_type="obj").encode(), "capsule.obj")


def measured(of: ShapeView, outcome: Outcome, name: str, **options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    kind = measure(name)
    metric = kind.build(Context(outcome.spec, view={**SMALL, "frame": of.options.frame}), **options)
    kind.feed(metric, outcome)
    values = metric.compute()
    found = {key: float(value) for key, value in values.items()} if isinstance(values, dict) else {"": float(values)}
    return found | {"skipped": float(metric.skipped)}, kind.details(metric)


class Perfect:
    """Stands in for a decoder: the signed distance from the original, perhaps of another size."""

    def __init__(self, of: ShapeItem, scale: float = 1.0) -> None:
        self.item, self.scale = of, scale

    def __call__(self, state: Any, queries: torch.Tensor) -> torch.Tensor:
        from zoo.shapes.meshes import Mesh
        from zoo.shapes.winding import distance, winding_number

        assert isinstance(self.item.shape, Mesh)
        points = self.item.placed.restore(queries[0].double().numpy() / self.scale)
        side = np.where(np.abs(winding_number(self.item.shape, points)) > 0.5, 1, -1)
        return torch.from_numpy(side * distance(self.item.shape, points)).float()[None]


def through(of: ShapeView, one: ShapeItem, query: Any, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(of.tokenizer, "field", lambda tokens: Field(query, torch.zeros(1, 1)), raising=False)
    ((setting, outcome),) = of.run([one], [Setting()])
    assert setting == Setting() and outcome.names == (one.name,)
    return outcome


def test_points_depend_on_seed_and_name_alone(tokenizer: ShapeTokenizer) -> None:
    first, again, other = item(view(tokenizer)), item(view(tokenizer)), item(view(tokenizer, seed=1))
    assert torch.equal(first.cloud, again.cloud) and torch.equal(first.queries, again.queries)
    assert not torch.equal(first.cloud, other.cloud)
    assert first.cloud.shape == (512, 3) and first.queries.shape == (4000, 3)
    assert [tuple(part.shape) for part in first.surfaces] == [(2000, 6), (2000, 6)]
    assert not torch.equal(*first.surfaces)
    assert first.queries.abs().max() <= tokenizer.placement.extent + 1e-6
    assert item(view(tokenizer, surfaces=False)).surfaces == ()


def test_batches_are_encoded_once_and_every_shape_is_its_own(tokenizer: ShapeTokenizer) -> None:
    passage = Passage(tokenizer)
    both = ShapeView(passage, SMALL, surfaces=True)
    items = [item(both, name) for name in ("blob.obj", "horse.glb")]
    assert both.shape(items[0]) == both.shape(items[1])
    ((_, together),) = both.run(items, [Setting()])
    assert passage.encoding.batches == 1 and together.surfaces is not None
    for place, one in enumerate(items):
        ((_, alone),) = both.run([one], [Setting()])
        assert torch.allclose(together.output[place], alone.output[0], atol=1e-4)
        assert torch.equal(together.surfaces[1][place], one.surfaces[0])


@pytest.mark.parametrize("frame", ["original", "own"])
def test_a_perfect_field_gets_the_sampling_floor(
    tokenizer: ShapeTokenizer, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    of = view(tokenizer, frame=frame, resolution=96)
    one = capsule(of)
    outcome = through(of, one, Perfect(one), monkeypatch)
    iou, _ = measured(of, outcome, "volume_iou")
    assert iou == {"": 1.0, "skipped": 0.0}
    found, details = measured(of, outcome, "surface", thresholds=[0.05])
    floor = details["sampling_floor"]
    assert found["chamfer_sum"] == pytest.approx(floor["chamfer_sum"], rel=0.03)
    assert found["f_score@0.05"] > 0.95 * floor["f_score@0.05"]
    assert found["normal_consistency"] > 0.95 and details["points"] == 2000


def test_own_frames_forgive_a_wrong_size(tokenizer: ShapeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {}
    for frame in ("original", "own"):
        of = view(tokenizer, frame=frame, resolution=96)
        one = capsule(of)
        found, details = measured(of, through(of, one, Perfect(one, 0.8), monkeypatch), "surface")
        numbers[frame] = found["chamfer_sum"] / details["sampling_floor"]["chamfer_sum"]
        assert ("own" in details["frame"]) == (frame == "own")
    assert numbers["own"] < 1.15 < 2 < numbers["original"]


def test_without_a_surface_a_shape_is_skipped(tokenizer: ShapeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    of = view(tokenizer)
    outcome = through(of, item(of), lambda state, queries: -torch.ones(queries.shape[:2]), monkeypatch)
    assert outcome.surfaces is not None and outcome.surfaces[0].isnan().all()
    found, _ = measured(of, outcome, "surface", thresholds=[0.02], numbers=["chamfer_sum"])
    assert found["skipped"] == 1 and np.isnan(found["chamfer_sum"])
    iou, _ = measured(of, outcome, "volume_iou")
    assert iou == {"": 0.0, "skipped": 0.0}, "it decodes to an empty shape, which shares nothing with the original"


def test_clouds_and_open_surfaces_have_no_volume(tokenizer: ShapeTokenizer, tmp_path: Path) -> None:
    of = view(tokenizer)
    blob = item(of)
    np.savez(tmp_path / "cloud.npz", points=blob.surfaces[0][:, :3], normals=blob.surfaces[0][:, 3:])
    cloud = of.read((tmp_path / "cloud.npz").read_bytes(), "cloud.npz")
    sheet = of.read(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 .5\nf 1 2 3\nf 1 2 4\n", "sheet.obj")
    assert cloud.inside.isnan().all() and sheet.inside.isnan().all()
    ((_, outcome),) = of.run([cloud, replace(blob)], [Setting()])
    iou, _ = measured(of, outcome, "volume_iou")
    assert iou["skipped"] == 1 and np.isfinite(iou[""])


def test_prepared_shapes_bring_their_own_points(tokenizer: ShapeTokenizer, tmp_path: Path) -> None:
    from zoo.shapes.meshes import read_mesh
    from zoo.shapes.prepared import Preparation, prepare

    how = Preparation(points=4096, sharp=16, queries=4096)
    prepare(read_mesh(ASSETS / "blob.obj"), how, "blob").save(tmp_path / "blob.safetensors", how, {})
    data, of = (tmp_path / "blob.safetensors").read_bytes(), view(tokenizer)
    found, mesh = of.read(data, "blob.safetensors"), item(of)
    assert float(found.cloud.abs().max()) == pytest.approx(tokenizer.placement.extent, abs=0.02)
    assert float(found.inside.mean()) == pytest.approx(float(mesh.inside.mean()) * 0.95**3, abs=0.02)
    with pytest.raises(ValueError, match=r"4,096 queries, the protocol 5,000"):
        view(tokenizer, queries=5000).read(data, "blob.safetensors")
    with pytest.raises(ValueError, match=r"4,096 points, 9,000 are needed"):
        view(tokenizer, surface=9000).read(data, "blob.safetensors")


def test_triangles_are_turned_outwards_where_the_protocol_says_so(tokenizer: ShapeTokenizer) -> None:
    lines = (ASSETS / "blob.obj").read_text().splitlines()
    inside_out = "\n".join(
        " ".join((line.split()[0], *reversed(line.split()[1:]))) if line[:2] == "f " else line for line in lines
    )
    normals = {}
    for outward in (False, True):
        of = view(tokenizer, outward=outward)
        found = of.read(inside_out.encode(), "blob.obj").surfaces[0]
        normals[outward] = float((found[:, :3] * found[:, 3:]).sum(1).mean())
    assert normals[False] < 0 < normals[True]


def test_samples_are_pictures_and_meshes(
    tokenizer: ShapeTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from zoo.data.images import read_image
    from zoo.shapes.meshes import read_mesh

    of = view(tokenizer)
    one = capsule(of)
    outcome = through(of, one, Perfect(one), monkeypatch)
    paths = [of.sample(outcome, 0, tmp_path / f"0.{original}", original=original) for original in (True, False)]
    assert paths == [tmp_path / "0.True.png", tmp_path / "0.False.png"]
    first, second = (read_image(path) for path in paths)
    assert (first - second).abs().mean() < 0.1 < (1 - first).abs().mean()
    made = read_mesh(tmp_path / "0.False.glb")
    assert np.allclose(made.vertices.min(0), one.shape.vertices.min(0), atol=0.1 * one.compared.scale)  # type: ignore[union-attr]
    empty = through(of, one, lambda state, queries: -torch.ones(queries.shape[:2]), monkeypatch)
    assert bool((read_image(of.sample(empty, 0, tmp_path / "none", original=False)) == 1).all())


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.obj", "empty"),
        (b"solid", "a.glb", "damaged"),
        (b"v 0 0 0", "a.obj", "points"),
        (b"x", "a.safetensors", "prepared"),
    ],
)
def test_bad_files_say_what_is_wrong_without_naming_a_temporary_one(
    tokenizer: ShapeTokenizer, data: bytes, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        view(tokenizer).read(data, name)
    assert "/tmp" not in str(caught.value)


def test_options_are_checked(tokenizer: ShapeTokenizer) -> None:
    with pytest.raises(ValueError, match="no option crop"):
        ShapeOptions.read({"crop": 1})
    with pytest.raises(ValueError, match="at least 1"):
        ShapeOptions.read({"queries": 0})
    with pytest.raises(ValueError, match="original or own"):
        ShapeOptions.read({"frame": "other"})
    with pytest.raises(ValueError, match="no tokenizer of shapes"):
        ShapeView(Passage(zoo.build("fsq_f8_tiny").eval()), {})
    with pytest.raises(ValueError, match="thresholds are among"):
        measure("surface").build(Context(tokenizer.spec, view=SMALL), thresholds=[0.03])


def test_the_floor_is_that_of_the_function_and_adds_up() -> None:
    draws = [torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    metric, plain = SurfaceFidelity(50, (0.5,), keep=["chamfer_sum", "f_score@0.5"]), SurfaceDistance(50, (0.5,))
    for row in range(2):
        metric.update(*(draw[row : row + 1] for draw in (draws[2], draws[0], draws[1])))
    plain.update(draws[2], draws[0])
    expected = sampling_floor(plain, lambda seed: draws[seed])
    whole = plain.compute()
    assert metric.compute() == {name: pytest.approx(float(whole[name])) for name in metric.keep}
    assert metric.floor == {name: pytest.approx(float(expected[name])) for name in metric.keep}
    with pytest.raises(ValueError, match="not f_score@1"):
        SurfaceFidelity(50, (0.5,), keep=["f_score@1"])


@pytest.mark.parametrize("name", ["vecset", "tar3d", "plain_shape"])
def test_protocols_name_numbers_that_there_are(name: str, tokenizer: ShapeTokenizer) -> None:
    assert name in list_protocols("shape")
    found = protocol(name)
    options = ShapeOptions.read(found.view)
    assert found.source and found.notes
    (asked,) = found.metrics["surface"]
    metric = measure("surface").build(Context(tokenizer.spec, view=found.view), **asked)
    assert metric.points == options.surface and set(asked["numbers"]) <= set(measure("surface").numbers)


RANK = """
import sys
import torch
import torch.distributed as dist
from zoo.metrics import SurfaceFidelity

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
clouds = torch.load(f"{folder}/clouds.pt")
found = []
for shared in (3, 1):  # the second time, rank 1 sees nothing
    metric = SurfaceFidelity(40, (0.5,))
    for row in range(rank, shared, 2):
        metric.update(*clouds[:, row : row + 1])
    found.append((metric.compute(), metric.floor, int(metric.skipped)))
torch.save(found, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    clouds = torch.randn(3, 3, 40, 3, generator=torch.Generator().manual_seed(0))
    clouds[0, 2] = torch.nan
    torch.save(clouds, tmp_path / "clouds.pt")
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ASSETS.parents[1]) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    for number, count in enumerate((3, 1)):
        whole = SurfaceFidelity(40, (0.5,))
        whole.update(*clouds[:, :count])
        expected = whole.compute()
        for rank in range(2):
            found, floor, _ = torch.load(tmp_path / f"rank{rank}.pt")[number]
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
            assert floor == pytest.approx(whole.floor, rel=1e-14)
