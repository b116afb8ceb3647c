"""Mesh and point cloud files in and out.

Inside the library a mesh is its vertices and triangles as numpy arrays, in the units and axes of its file.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.store.files import replacing

__all__ = [
    "CLOUD_SUFFIXES",
    "MESH_SUFFIXES",
    "WRITABLE_MESHES",
    "Cloud",
    "Mesh",
    "read_cloud",
    "read_mesh",
    "read_shape",
    "write_cloud",
    "write_mesh",
]

MESH_SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
CLOUD_SUFFIXES = (".npz", ".ply")
WRITABLE_MESHES = (".glb", ".obj", ".ply", ".stl")
MOST_FACES = 5_000_000
FARTHEST = 1e15
THINNEST = 1e-9  # of the longest side, below which a shape counts as a point, or a triangle as degenerate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles.

    Attributes:
        vertices: (V, 3) float64, x, y, z.
        faces: (F, 3) int64, vertex numbers, counter-clockwise seen from outside.
    """

    vertices: Floats
    faces: Ints

    @property
    def corners(self) -> Floats:
        """(F, 3, 3): the corners of each triangle."""
        return self.vertices[self.faces]

    def cross(self) -> Floats:
        """(F, 3): normals of the triangles, as long as twice their areas."""
        a, b, c = np.moveaxis(self.corners, 1, 0)
        return np.asarray(np.cross(b - a, c - a))


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of a surface.

    Attributes:
        points: (P, 3) float64, x, y, z.
        normals: (P, 3) float64 of length 1, or None.
    """

    points: Floats
    normals: Floats | None = None


def read_mesh(path: str | Path, most_faces: int = MOST_FACES) -> Mesh:
    """Read a mesh; the parts of a scene are put together, where its transforms place them.

    Polygons are cut into triangles. Triangles without area are dropped. Colours and textures are not read.

    Args:
        path: OBJ, GLB, GLTF, PLY, STL or OFF.
        most_faces: largest number of triangles that is taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, damaged, of an unknown format, without triangles (a point cloud, say), with NaN or infinity,
            flat or pointlike, or with too many triangles.
        RuntimeError: trimesh is not installed.
    """
    shape = read_shape(path, most_faces)
    if isinstance(shape, Cloud):
        raise ValueError(f"{path} holds a point cloud; a mesh with triangles is needed here")
    return shape


def read_cloud(path: str | Path) -> Cloud:
    """Read a point cloud: a PLY file without faces, or an NPZ with `points` (P, 3) and perhaps `normals` (P, 3).

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `read_mesh`; also for a mesh.
    """
    shape = read_shape(path)
    if isinstance(shape, Mesh):
        raise ValueError(f"{path} holds a mesh; a point cloud is needed here (`sample_surface` makes one)")
    return shape


def read_shape(path: str | Path, most_faces: int = MOST_FACES) -> Mesh | Cloud:
    """Read a mesh, or a point cloud where the file holds points alone; see `read_mesh` and `read_cloud`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no shape file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _checked_cloud(path, *_read_npz(path))
    if suffix not in MESH_SUFFIXES:
        known = ", ".join((*MESH_SUFFIXES, ".npz"))
        raise ValueError(f"{path}: {path.suffix or 'a file without suffix'} is no known shape format; use {known}")
    library = _trimesh()
    try:
        scene = library.load_scene(path, process=False, skip_materials=True)
        found = [part for part in scene.dump() if len(getattr(part, "vertices", ())) > 0]
    except Exception as error:  # its readers raise anything on broken files, from KeyError to struct.error
        raise ValueError(f"{path}: damaged, or not a {suffix[1:].upper()} file ({error})") from error
    meshes = [part for part in found if isinstance(part, library.Trimesh) and len(part.faces) > 0]
    if meshes:
        starts = np.cumsum([0, *(len(part.vertices) for part in meshes[:-1])])
        vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in meshes])
        faces = np.concatenate(
            [np.asarray(part.faces, np.int64) + start for part, start in zip(meshes, starts, strict=True)]
        )
        return _checked_mesh(path, vertices, faces, most_faces)
    if found:
        points = np.concatenate([np.asarray(part.vertices, np.float64) for part in found])
        return _checked_cloud(path, points, _stored_normals(found))
    raise ValueError(f"{path}: the file has neither triangles nor points")


def write_mesh(path: str | Path, mesh: Mesh) -> Path:
    """Write a mesh; an existing file is replaced once the new one is complete.

    Args:
        path: ends in .glb, .obj, .ply (binary) or .stl (binary). GLB, PLY and STL store float32.

    Raises:
        ValueError: another suffix, or nothing to write.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE_MESHES:
        known = ", ".join(WRITABLE_MESHES)
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {known}")
    if len(mesh.faces) == 0:
        raise ValueError(f"{path}: a mesh without triangles cannot be written")
    data = _trimesh().Trimesh(mesh.vertices, mesh.faces, process=False).export(file_type=suffix[1:])
    with replacing(path) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_cloud(path: str | Path, cloud: Cloud) -> Path:
    """Write a point cloud as NPZ, or as binary PLY (whose points are float32; normals too).

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in CLOUD_SUFFIXES:
        raise ValueError(f"{path}: a point cloud is written as {' or '.join(CLOUD_SUFFIXES)}")
    columns: dict[str, Any] = {"points": cloud.points} | ({} if cloud.normals is None else {"normals": cloud.normals})
    with replacing(path) as draft:
        if suffix == ".npz":
            np.savez(draft, **columns)
        else:
            names = ["x", "y", "z", "nx", "ny", "nz"][: 3 * len(columns)]
            header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud.points)}"]
            header += [*(f"property float {name}" for name in names), "end_header", ""]
            rows = np.concatenate(list(columns.values()), axis=1)
            draft.write_bytes("\n".join(header).encode() + rows.astype("<f4").tobytes())
    return path


def _read_npz(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in ("points", "normals") if name in arrays}
            names = sorted(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged, or not an NPZ file ({error})") from error
    if "points" not in columns:
        raise ValueError(f"{path}: expected an array `points` (P, 3), found {', '.join(names) or 'nothing'}")
    return columns["points"], columns.get("normals")


def _stored_normals(parts: list[Any]) -> Any:
    """(P, 3) normals of point clouds from PLY, which trimesh hands on as columns of the file; None without them."""
    columns = []
    for part in parts:
        vertex = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})
        names = vertex.dtype.names if isinstance(vertex, np.ndarray) else vertex
        if not all(name in (names or ()) for name in ("nx", "ny", "nz")):
            return None
        columns.append(np.stack([np.asarray(vertex[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz")], 1))
    return np.concatenate(columns)


def _checked_mesh(path: Path, vertices: Floats, faces: Ints, most_faces: int) -> Mesh:
    if len(faces) > most_faces:
        raise ValueError(f"{path}: {len(faces):,} triangles, at most {most_faces:,} are taken; simplify the mesh")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{path}: triangles name vertices up to {faces.max()}, there are {len(vertices)}")
    used = np.unique(faces)
    _check_points(path, vertices[used], "vertex")
    number = np.zeros(len(vertices), np.int64)
    number[used] = np.arange(len(used))
    mesh = Mesh(np.ascontiguousarray(vertices[used]), number[faces])
    side = np.ptp(mesh.vertices, axis=0).max()
    solid = np.linalg.norm(mesh.cross(), axis=1) > (THINNEST * side) ** 2
    if not solid.any():
        raise ValueError(f"{path}: degenerate, none of the {len(faces):,} triangles has an area")
    return Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[solid]))


def _checked_cloud(path: Path, points: Any, normals: Any) -> Cloud:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected points (P, 3), got {points.shape} {points.dtype}")
    points = points.astype(np.float64)
    if len(points) == 0:
        raise ValueError(f"{path}: the cloud has no points")
    _check_points(path, points, "point")
    if normals is None:
        return Cloud(points)
    normals = np.asarray(normals, np.float64)
    if normals.shape != points.shape or not np.isfinite(normals).all():
        raise ValueError(f"{path}: expected finite normals {points.shape}, got {normals.shape}")
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return Cloud(points, normals / np.maximum(lengths, 1e-12))


def _check_points(path: Path, points: Floats, name: str) -> None:
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(f"{path}: {int(bad.sum()):,} of {len(points):,} {name} coordinates are NaN or infinite")
    farthest = float(np.abs(points).max())
    if farthest > FARTHEST:
        raise ValueError(f"{path}: coordinates up to {farthest:.3g}, at most {FARTHEST:g} are taken; scale the shape")
    if np.ptp(points, axis=0).max() <= THINNEST * farthest:
        raise ValueError(f"{path}: degenerate, all {len(points):,} points lie in one place")


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise RuntimeError(
            f"mesh files need trimesh ({error}); install it with: pip install 'tokenizer-zoo[mesh]'"
        ) from error
    return trimesh
