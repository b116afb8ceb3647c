"""Mesh and cloud files: formats, scenes, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh")

from zoo.shapes.meshes import Cloud, Mesh, read_cloud, read_mesh, read_shape, write_cloud, write_mesh  # noqa: E402

ASSETS = Path(__file__).parents[1] / "assets"
CUBE = trimesh.creation.box()


def test_the_parts_of_a_scene_stand_where_its_transforms_put_them(tmp_path: Path) -> None:
    scene = trimesh.Scene([CUBE])
    scene.add_geometry(CUBE, transform=trimesh.transformations.translation_matrix((5.0, 0, 0)))
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 24 and mesh.vertices.min(0).tolist() == [-0.5] * 3
    assert mesh.vertices.max(0).tolist() == [5.5, 0.5, 0.5]
    assert np.linalg.norm(mesh.cross(), axis=1).sum() / 2 == pytest.approx(12)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_meshes_are_written_and_read_again(tmp_path: Path, suffix: str) -> None:
    horse = read_mesh(ASSETS / "horse.glb")
    again = read_mesh(write_mesh(tmp_path / f"horse{suffix}", horse))
    np.testing.assert_allclose(again.corners, horse.corners, atol=1e-4)
    assert again.faces.dtype == np.int64 and again.vertices.dtype == np.float64


def test_polygons_become_triangles_and_unused_vertices_go(tmp_path: Path) -> None:
    path = tmp_path / "square.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 9 9 9\nf 1 2 3 4\nf 1 1 2\n")
    mesh = read_mesh(path)
    assert mesh.faces.shape == (2, 3) and mesh.vertices.shape == (4, 3)


@pytest.mark.parametrize("suffix", [".npz", ".ply"])
@pytest.mark.parametrize("normals", [False, True])
def test_clouds_are_written_and_read_again(tmp_path: Path, suffix: str, normals: bool) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    cloud = Cloud(points, points / np.linalg.norm(points, axis=1, keepdims=True) if normals else None)
    again = read_cloud(write_cloud(tmp_path / f"cloud{suffix}", cloud))
    np.testing.assert_allclose(again.points, points, atol=1e-6)
    assert (again.normals is None) == (cloud.normals is None)
    if cloud.normals is not None and again.normals is not None:
        np.testing.assert_allclose(again.normals, cloud.normals, atol=1e-6)


def test_meshes_and_clouds_are_told_apart(tmp_path: Path) -> None:
    path = write_cloud(tmp_path / "cloud.ply", Cloud(np.eye(3)))
    assert isinstance(read_shape(path), Cloud) and isinstance(read_shape(ASSETS / "blob.obj"), Mesh)
    with pytest.raises(ValueError, match="point cloud; a mesh with triangles is needed"):
        read_mesh(path)
    with pytest.raises(ValueError, match="holds a mesh; a point cloud is needed"):
        read_cloud(ASSETS / "blob.obj")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.obj", "", "empty"),
        ("nothing.obj", "# no geometry\n", "neither triangles nor points|damaged"),
        ("noise.glb", "glTF, but not really", "damaged"),
        ("cut.stl", "solid one\nfacet", "damaged|neither"),
        ("nan.obj", "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "1 of 3 vertex coordinates are NaN"),
        ("point.obj", "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "degenerate, all 3 points"),
        ("line.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "degenerate, none of the 1 triangles"),
        ("huge.obj", "v 0 0 0\nv 1e30 0 0\nv 0 1e30 0\nf 1 2 3\n", "coordinates up to 1e.30"),
        ("index.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 7\n", "damaged|name vertices"),
        ("shape.fbx", "x", "no known shape format; use .obj"),
        ("cloud.npz", "x", "damaged, or not an NPZ"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as told:
        read_shape(tmp_path / name)
    assert name in str(told.value)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no shape file"):
        read_mesh(tmp_path / "missing.obj")
    with pytest.raises(ValueError, match="282 triangles, at most 100"):
        read_mesh(ASSETS / "blob.obj", most_faces=100)
    np.savez(tmp_path / "a.npz", xyz=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"expected an array `points` \(P, 3\), found xyz"):
        read_cloud(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", points=np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"expected points \(P, 3\), got \(4, 2\)"):
        read_cloud(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", points=np.eye(3), normals=np.eye(3)[:2])
    with pytest.raises(ValueError, match=r"expected finite normals \(3, 3\), got \(2, 3\)"):
        read_cloud(tmp_path / "c.npz")
    with pytest.raises(ValueError, match=r"cannot write .fbx; use .glb"):
        write_mesh(tmp_path / "a.fbx", read_mesh(ASSETS / "blob.obj"))
    with pytest.raises(ValueError, match=r"written as .npz or .ply"):
        write_cloud(tmp_path / "a.obj", Cloud(np.eye(3)))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "blob.obj"
    shutil.copy(ASSETS / "blob.obj", target)
    with pytest.raises(ValueError, match="without triangles"):
        write_mesh(target, Mesh(np.eye(3), np.zeros((0, 3), np.int64)))
    assert target.read_bytes() == (ASSETS / "blob.obj").read_bytes() and len(list(tmp_path.iterdir())) == 1
