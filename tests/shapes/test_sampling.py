"""Placement, points of a surface, inside and outside, and what is stored of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("igl")

from zoo.shapes.meshes import Mesh, read_mesh  # noqa: E402
from zoo.shapes.placement import Frame  # noqa: E402
from zoo.shapes.prepared import Preparation, parse_prepared, prepare  # noqa: E402
from zoo.shapes.sampling import near_surface, sample_sharp, sample_surface  # noqa: E402
from zoo.shapes.winding import ambiguous, distance, winding_number  # noqa: E402

ASSETS = Path(__file__).parents[1] / "assets"
SMALL = Preparation(points=256, sharp=64, queries=512)


def mesh_of(made: object) -> Mesh:
    return Mesh(np.asarray(made.vertices, np.float64), np.asarray(made.faces, np.int64))  # type: ignore[attr-defined]


BOX = mesh_of(trimesh.creation.box((2.0, 1.0, 1.0)))
BALL = mesh_of(trimesh.creation.icosphere(4))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["box", "sphere", "none"])
def test_placement_is_undone_exactly_enough(kind: str) -> None:
    points = rng().normal(size=(100, 3)) * [3, 1, 2] + [10, 20, -5]
    frame = Frame.around(points, kind, 0.9)  # type: ignore[arg-type]
    placed = frame.normalise(points)
    np.testing.assert_allclose(frame.restore(placed), points, rtol=1e-12)
    assert Frame.of(np.asarray(frame.numbers)) == frame
    if kind == "box":
        assert np.abs(placed).max() == pytest.approx(0.9)
    if kind != "none":
        np.testing.assert_allclose(placed.min(0), -placed.max(0), atol=1e-12)
    if kind == "sphere":
        assert np.linalg.norm(placed, axis=1).max() == pytest.approx(0.9)
    with pytest.raises(ValueError, match="placement is box, sphere or none"):
        Frame.around(points, "cube", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lie in one place"):
        Frame.around(np.ones((3, 3)), "box", 1.0)


def test_surface_points_are_even_and_carry_normals() -> None:
    points, normals = sample_surface(BOX, 20000, rng())
    again, _ = sample_surface(BOX, 20000, rng())
    assert np.array_equal(points, again)
    assert np.isclose(np.abs(points) / [1, 0.5, 0.5], 1).any(axis=1).all()
    ends = np.abs(normals[:, 0]) > 0.5
    assert ends.mean() == pytest.approx(0.2, abs=0.01)  # two ends of 1, four sides of 2
    assert ((points * normals).sum(1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.02)


def test_sharp_points_lie_on_edges() -> None:
    apart = Mesh(BOX.corners.reshape(-1, 3), np.arange(36).reshape(-1, 3))  # triangles that share no vertex
    for mesh in (BOX, apart):
        points, normals = sample_sharp(mesh, 4000, rng())
        touching = np.isclose(np.abs(points) / [1, 0.5, 0.5], 1).sum(axis=1)
        assert points.shape == (4000, 3) and touching.min() >= 2
        np.testing.assert_allclose(np.sort(np.abs(normals), 1), np.tile([0, 0.5**0.5, 0.5**0.5], (4000, 1)), atol=1e-9)
        assert (touching == 2).mean() > 0.9 and ((points * normals).sum(1) > 0).all()
    assert sample_sharp(BALL, 100, rng())[0].shape == (0, 3)


def test_near_points_spread_as_told() -> None:
    points = near_surface(BALL, 10000, rng(), (0.01, 0.1))
    away = np.linalg.norm(points, axis=1) - 1
    assert away[0::2].std() == pytest.approx(0.01, rel=0.1) and away[1::2].std() == pytest.approx(0.1, rel=0.1)


def test_winding_number_and_distance() -> None:
    queries = rng().uniform(-1.5, 1.5, (4000, 3))
    radius = np.linalg.norm(queries, axis=1)
    winding = winding_number(BALL, queries)
    clear = np.abs(radius - 1) > 0.01
    assert ((winding > 0.5) == (radius < 1))[clear].all()
    assert ambiguous(winding) < 0.01
    inwards = winding_number(Mesh(BALL.vertices, BALL.faces[:, ::-1].copy()), queries)
    np.testing.assert_allclose(inwards, -winding, atol=1e-6)
    np.testing.assert_allclose(distance(BALL, queries), np.abs(radius - 1), atol=0.005)
    half = Mesh(BALL.vertices, BALL.faces[BALL.corners[:, :, 2].mean(1) > 0])
    assert ambiguous(winding_number(half, queries)) > 0.1


def test_prepared_shapes_agree_with_what_they_describe() -> None:
    mesh = Mesh(BALL.vertices * 7 + 3, BALL.faces)
    found = prepare(mesh, SMALL, "ball")
    arrays = found.arrays
    frame = Frame.of(arrays["frame"])
    np.testing.assert_allclose(frame.restore(np.zeros(3)), 3)
    assert frame.scale == pytest.approx(7 / 0.95)
    np.testing.assert_allclose(arrays["extent"], 0.95, rtol=1e-3)
    assert arrays["sharp"].shape == (0, 3) and arrays["points"].dtype == np.float16
    assert found.inside == pytest.approx(4 / 3 * np.pi * 0.95**3 / 8, abs=0.06)
    for kind in ("volume", "near"):
        queries = arrays[kind].astype(np.float64)
        away = 0.95 - np.linalg.norm(queries, axis=1)
        inside = np.unpackbits(arrays[f"{kind}_inside"]).astype(bool)
        assert (inside == (away > 0))[np.abs(away) > 0.005].all()
        np.testing.assert_allclose(arrays[f"{kind}_sdf"], away, atol=0.005)
        assert ((arrays[f"{kind}_sdf"] > 0) == inside)[np.abs(away) > 0.005].all()
    assert np.abs(arrays["volume"]).max() <= 1


def test_preparation_depends_on_mesh_options_and_name_alone() -> None:
    mesh = read_mesh(ASSETS / "blob.obj")
    one, two = prepare(mesh, SMALL, "a"), prepare(mesh, SMALL, "a")
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert not np.array_equal(one.arrays["points"], prepare(mesh, SMALL, "b").arrays["points"])


def test_a_prepared_file_says_where_it_comes_from(tmp_path: Path) -> None:
    from safetensors import safe_open

    found = prepare(read_mesh(ASSETS / "horse.glb"), SMALL, "horse")
    path = tmp_path / "horse.safetensors"
    found.save(path, SMALL, {"source": "horse.glb", "faces": 1872})
    arrays = parse_prepared(path.read_bytes())
    assert all(np.array_equal(arrays[name], array) for name, array in found.arrays.items())
    with safe_open(path, "numpy") as file:
        facts = file.metadata()
    assert facts["source"] == "horse.glb" and facts["faces"] == "1872" and float(facts["ambiguous"]) < 0.01
    with pytest.raises(ValueError, match="damaged, or no prepared shape"):
        parse_prepared(path.read_bytes()[:1000])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged, or no prepared shape"):
        parse_prepared(b"")


def test_surfaces_without_an_inside_are_refused() -> None:
    half = Mesh(BALL.vertices, BALL.faces[BALL.corners[:, :, 2].mean(1) > 0])
    with pytest.raises(ValueError, match=r"% of the queries are neither clearly inside nor outside \(at most 5.0%"):
        prepare(half, SMALL, "half")
    both_sides = Mesh(BALL.vertices, np.concatenate([BALL.faces, BALL.faces[:, ::-1]]))
    with pytest.raises(ValueError, match="encloses no space"):
        prepare(both_sides, SMALL, "double")
    with pytest.raises(ValueError, match=r"inside \[-1, 1\]\^3"):
        prepare(Mesh(BALL.vertices * 2, BALL.faces), Preparation(placement="none"), "large")
    with pytest.raises(ValueError, match="queries a multiple of 8"):
        Preparation(queries=12)
    with pytest.raises(ValueError, match="spreads are above 0"):
        Preparation(spreads=(0.0,))
    with pytest.raises(ValueError, match=r"ambiguous queries is in \[0, 1\]"):
        Preparation(most_ambiguous=5)
