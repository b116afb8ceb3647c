"""Points on and around a surface, drawn from a seeded generator."""

from __future__ import annotations

import numpy as np

from zoo.shapes.meshes import Floats, Ints, Mesh

__all__ = ["near_surface", "sample_sharp", "sample_surface"]


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Points spread evenly over the area of a mesh.

    Returns:
        points (count, 3) and the unit normals (count, 3) of their triangles.
    """
    cross = mesh.cross()
    areas = np.linalg.norm(cross, axis=1)
    chosen = _weighted(areas, count, rng)
    u, v = rng.random((2, count, 1))
    beyond = u + v > 1
    u, v = np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v)
    a, b, c = np.moveaxis(mesh.corners[chosen], 1, 0)
    return a + u * (b - a) + v * (c - a), cross[chosen] / areas[chosen, None]


def sample_sharp(mesh: Mesh, count: int, rng: np.random.Generator, angle: float = 30.0) -> tuple[Floats, Floats]:
    """Points spread evenly over the length of the sharp edges of a mesh (the salient edges of Dora, arXiv 2412.17808).

    An edge is sharp where its two triangles turn by more than `angle` degrees. Vertices at the same place count as
    one, so that meshes whose triangles share nothing have edges too.

    Returns:
        points (count, 3), and their unit normals (count, 3), the mean of both sides; (0, 3) of each where no edge is
        sharp.
    """
    _, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces: Ints = place.reshape(-1)[mesh.faces]
    cross = mesh.cross()
    normals = cross / np.linalg.norm(cross, axis=1, keepdims=True)
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    ends = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    same = (sides[order[:-1]] == sides[order[1:]]).all(axis=1)
    first, second = order[:-1][same], order[1:][same]
    one, other = normals[first // 3], normals[second // 3]
    sharp = (one * other).sum(axis=1) < np.cos(np.radians(angle))
    mean = (one + other)[sharp]
    a, b = (mesh.vertices[ends[first[sharp], end]] for end in (0, 1))
    lengths = np.linalg.norm(b - a, axis=1)
    sizes = np.linalg.norm(mean, axis=1)
    good = (lengths > 0) & (sizes > 1e-6)  # a fold back onto itself has no mean normal
    if not good.any():
        return np.zeros((0, 3)), np.zeros((0, 3))
    a, b, mean = a[good], b[good], mean[good] / sizes[good, None]
    chosen = _weighted(lengths[good], count, rng)
    return a[chosen] + rng.random((count, 1)) * (b[chosen] - a[chosen]), mean[chosen]


def near_surface(mesh: Mesh, count: int, rng: np.random.Generator, spreads: tuple[float, ...]) -> Floats:
    """(count, 3) points of the surface, moved by Gaussian noise; equally many for each standard deviation given."""
    points, _ = sample_surface(mesh, count, rng)
    spread = np.resize(np.asarray(spreads, np.float64), count)
    return points + spread[:, None] * rng.standard_normal((count, 3))


def _weighted(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    """(count,) positions, each drawn in proportion to its weight."""
    total = np.cumsum(weights)
    return np.minimum(np.searchsorted(total, rng.random(count) * total[-1], side="right"), len(total) - 1)
