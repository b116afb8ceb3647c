"""Inside and outside of meshes that need not be closed."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.shapes.meshes import Floats, Mesh

__all__ = ["ambiguous", "distance", "winding_number"]

LOW, HIGH = 0.1, 0.9


def winding_number(mesh: Mesh, queries: Floats) -> Floats:
    """How often the surface goes around each point (fast winding number, Barill et al. 2018, SIGGRAPH).

    0 outside a closed surface and 1 inside, -1 where its triangles face inwards; in between where the surface has
    holes. A point is inside where the magnitude is above 1/2.

    Args:
        queries: (Q, 3).

    Returns:
        (Q,).

    Raises:
        RuntimeError: libigl is not installed.
    """
    return np.asarray(_igl().fast_winding_number(mesh.vertices, mesh.faces, np.ascontiguousarray(queries)))


def ambiguous(winding: Floats) -> float:
    """Share of points, in [0, 1], of which the winding number does not say clearly whether they are inside.

    These are those with 0.1 < |w| < 0.9: around open sheets and large holes.
    """
    size = np.abs(winding)
    return float(((size > LOW) & (size < HIGH)).mean())


def distance(mesh: Mesh, queries: Floats) -> Floats:
    """(Q,): how far each point (Q, 3) is from the nearest point of the surface, at least 0."""
    squared = _igl().point_mesh_squared_distance(np.ascontiguousarray(queries), mesh.vertices, mesh.faces)[0]
    return np.sqrt(np.asarray(squared))


def _igl() -> Any:
    try:
        import igl
    except ImportError as error:
        raise RuntimeError(
            f"inside and outside of meshes need libigl ({error}); install it with: pip install 'tokenizer-zoo[mesh]'"
        ) from error
    return igl
