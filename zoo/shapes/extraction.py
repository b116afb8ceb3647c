"""Triangle meshes from fields: marching cubes on a dense grid, or on the few nodes of it that the surface needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.shapes.meshes import Mesh

if TYPE_CHECKING:
    from zoo.families.shape import Field

__all__ = ["Extraction", "extract"]

STRIDE = 4
FEWEST = 4  # coarse cells along an axis; grids too small for them are evaluated whole
QUERY_BATCH = 1 << 16
CELLS = 1 << 14  # coarse cells whose nodes are listed at a time
CORNERS = np.array(list(product((0, 1), repeat=3)))
FACES = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))  # axis and side

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Extraction:
    """A surface, in the frame of its field.

    Attributes:
        mesh: its triangles, vertices in [-bounds, bounds]; closed.
        resolution: cells along each axis of the grid.
        evaluations: points at which the field was evaluated.
    """

    mesh: Mesh
    resolution: int
    evaluations: int

    @property
    def share(self) -> float:
        """Evaluated share of the (resolution + 1)^3 nodes of the grid."""
        return self.evaluations / (self.resolution + 1) ** 3


def extract(
    field: Field | Callable[[Tensor], Tensor],
    *,
    resolution: int = 128,
    bounds: float | None = None,
    level: float = 0.0,
    stride: int = STRIDE,
    query_batch: int = QUERY_BATCH,
) -> Extraction:
    """The surface where a field crosses a level, by marching cubes (Lewiner et al. 2003) over the cube of its bounds.

    The grid has `resolution` cells, so `resolution` + 1 nodes, along each axis; node i is at
    i * 2 * bounds / resolution - bounds. What is inside at a node on the border of the cube counts as outside there, so
    that a shape that leaves the cube is cut and closed, and every mesh is watertight.

    Only nodes that matter are evaluated, but for `stride` 1. Those of a coarse grid come first. Edges of it with one
    end inside are halved down to a crossed edge of the fine grid, and from there the surface is followed from cell to
    cell: every component that the coarse grid meets comes out as on the dense grid, vertex for vertex. Where values
    towards a coarse cell rise (or fall) so steeply that they could cross the level within it unseen, as at rods and
    plates thinner than a coarse cell, all its nodes are evaluated. What remains unseen is a separate part, thinner than
    a coarse cell, that nothing in the values around announces.

    Memory is that of the grid (6 bytes a node) and of `query_batch` points in the field.

    Args:
        field: (1, Q, 3) points to (1, Q) values, above `level` inside; of one shape: `field[0]` of a batch.
        resolution: cells along each axis, >= 2.
        bounds: half the side of the cube; None for the field's own, or 1.
        level: value on the surface.
        stride: cells along each side of a coarse cell; 1 evaluates every node of the grid.
        query_batch: points that the field gets at once.

    Raises:
        ValueError: a setting is out of range, the field is of several shapes, its values are not finite, or nothing is
            inside.
        RuntimeError: scikit-image is not installed.
    """
    if resolution < 2 or stride < 1 or query_batch < 1:
        raise ValueError(
            "resolution must be at least 2, stride and query_batch at least 1, "
            f"got {resolution}, {stride} and {query_batch}"
        )
    if (count := getattr(field, "batch", 1)) != 1:
        raise ValueError(f"one shape is extracted at a time, got a field of {count}; use field[0]")
    half = float(getattr(field, "bounds", 1.0) if bounds is None else bounds)
    grid = _Grid(field, resolution, half, level, query_batch)
    stride = min(stride, resolution // FEWEST)
    if stride > 1:
        return _march(grid, _search(grid, stride))
    for start in range(0, grid.size, query_batch):
        grid.evaluate(np.arange(start, min(start + query_batch, grid.size)))
    return _march(grid, None)


class _Grid:
    """Nodes of the fine grid, numbered with z fastest, and their values above the level; NaN where not evaluated."""

    def __init__(
        self, field: Callable[[Tensor], Tensor], resolution: int, bounds: float, level: float, batch: int
    ) -> None:
        self.field, self.resolution, self.bounds, self.level, self.batch = field, resolution, bounds, level, batch
        self.side = resolution + 1
        self.size = self.side**3
        self.steps = np.array([self.side**2, self.side, 1])
        self.device = getattr(field, "device", torch.device("cpu"))
        self.ticks = torch.linspace(-bounds, bounds, self.side, device=self.device)
        self.values = np.full(self.size, np.nan, np.float32)
        self.evaluations = 0

    def nodes(self, x: Array, y: Array, z: Array) -> Array:
        """Nodes (n, a, b, c) at places (n, a), (n, b) and (n, c) along each axis."""
        x, y, z = x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]
        return np.asarray(x * self.steps[0] + y * self.steps[1] + z)

    def places(self, nodes: Array) -> tuple[Array, Array, Array]:
        """Positions (n,) of nodes along each axis."""
        return nodes // self.steps[0], nodes // self.side % self.side, nodes % self.side

    def evaluate(self, nodes: Array) -> None:
        """Find out the values of different nodes (n,) that have none yet."""
        for start in range(0, len(nodes), self.batch):
            part = nodes[start : start + self.batch]
            self.values[part] = self._values(part)
        self.evaluations += len(nodes)

    def __call__(self, nodes: Array) -> Array:
        """Values of nodes, of any shape, evaluated where they are not known."""
        values = self.values[nodes]
        unknown = np.isnan(values)
        if unknown.any():
            self.evaluate(np.unique(nodes[unknown]))
            values = self.values[nodes]
        return values

    @torch.no_grad()
    def _values(self, nodes: Array) -> Array:
        places = self.places(nodes)
        points = self.ticks[torch.from_numpy(np.stack(places, axis=-1)).to(self.device)]
        values = (self.field(points[None])[0].float() - self.level).cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"the field gave {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
        border = np.logical_or.reduce([(place == 0) | (place == self.resolution) for place in places])
        return np.where(border, -np.abs(values), values)


def _search(grid: _Grid, stride: int) -> Array:
    """Evaluate what the surface needs; which cells it crosses, (side^3,) bool by their first nodes."""
    ticks = np.append(np.arange(0, grid.resolution, stride), grid.resolution)
    nodes = grid.nodes(ticks[None], ticks[None], ticks[None])[0]
    values = grid(nodes)
    seeds = [_bisect(grid, low, high) for low, high in _crossings(nodes, values)]
    lows = ticks[np.argwhere(_suspects(ticks, values))]
    for start in range(0, len(lows), CELLS):
        inner = np.minimum(lows[start : start + CELLS, :, None] + np.arange(stride + 1), grid.resolution)
        blocks = grid.nodes(inner[:, 0], inner[:, 1], inner[:, 2])
        seeds += [_bisect(grid, low, high) for low, high in _crossings(blocks, grid(blocks))]
    found = np.unique(np.concatenate(seeds))
    if not len(found):
        raise ValueError(_nothing(grid))
    return _follow(grid, found)


def _crossings(nodes: Array, values: Array) -> Iterator[tuple[Array, Array]]:
    """Ends of the edges of a lattice (..., a, b, c) that cross the level."""
    inside = values > 0
    for axis in (-3, -2, -1):
        length = nodes.shape[axis]
        low, high = (range(length - 1), range(1, length))
        crossed = inside.take(low, axis) != inside.take(high, axis)
        yield nodes.take(low, axis)[crossed], nodes.take(high, axis)[crossed]


def _bisect(grid: _Grid, low: Array, high: Array) -> Array:
    """Cells (n,) at crossed edges of the fine grid, one on each segment from low (n,) to high (n,) along an axis."""
    rise = grid.values[high] > 0
    step = np.select([high - low >= unit for unit in grid.steps], list(grid.steps)) if len(low) else low
    while len(low) and bool((far := high - low > step).any()):
        middle = np.where(far, low + (high - low) // step // 2 * step, low)
        above = (grid(middle) > 0) == rise
        low, high = np.where(far & ~above, middle, low), np.where(far & above, middle, high)
    last = sum((place == grid.resolution) * unit for place, unit in zip(grid.places(low), grid.steps, strict=True))
    return low - last


def _suspects(ticks: Array, values: Array) -> Array:
    """(m, m, m) bool: coarse cells whose corners agree, but in which the level may be crossed.

    From each corner values are continued into the cell along the slopes with which they arrive there from outside of
    it, where these lead towards the level. Distances from a convex thing within the cell fall at least as fast.

    Args:
        ticks: (m + 1,) places of coarse nodes along each axis.
        values: (m + 1, m + 1, m + 1) at them.
    """
    cells, widths = len(ticks) - 1, np.diff(ticks)
    along = [widths.reshape(np.where(np.arange(3) == axis, cells, 1)) for axis in range(3)]
    slopes = []  # of the edge before node i at i along its axis; 0 beyond the cube
    for axis in range(3):
        slope = np.diff(values, axis=axis) / along[axis]
        slopes.append(np.pad(slope, [(1, 1) if other == axis else (0, 0) for other in range(3)]))
    inside = np.stack([values[_at(corner, cells)] > 0 for corner in CORNERS])
    alike = (inside == inside[0]).all(axis=0)
    side = np.where(inside[0], 1, -1).astype(np.float32)
    suspect = np.zeros_like(alike)
    for corner in CORNERS:
        reached = side * values[_at(corner, cells)]
        for axis in range(3):
            behind = corner.copy()
            behind[axis] *= 2  # the edge that ends at a low corner, or begins at a high one
            into = -1 if corner[axis] else 1
            reached += np.minimum(into * side * slopes[axis][_at(behind, cells)] * along[axis], 0)
        suspect |= reached <= 0
    return np.asarray(suspect & alike)


def _at(first: Array, count: int) -> tuple[slice, ...]:
    """`count` places along each axis, from `first` (3,)."""
    return tuple(slice(place, place + count) for place in first)


def _follow(grid: _Grid, cells: Array) -> Array:
    """From some cells along the surface to all that are connected with them, (side^3,) bool by their first nodes."""
    crossed = np.zeros(grid.size, bool)
    corners = CORNERS @ grid.steps
    while len(cells):
        inside = grid(cells[:, None] + corners) > 0
        crossed[cells] = True
        found = []
        for axis, end in FACES:
            face = inside[:, CORNERS[:, axis] == end]
            mixed = face.any(axis=1) & ~face.all(axis=1)
            found.append(cells[mixed] + (grid.steps[axis] if end else -grid.steps[axis]))
        cells = np.unique(np.concatenate(found))
        cells = cells[~crossed[cells]]
    return crossed


def _march(grid: _Grid, crossed: Array | None) -> Extraction:
    """Marching cubes on the values found, over the crossed cells or all."""
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise RuntimeError(
            f"marching cubes needs scikit-image ({error}); install it with: pip install 'tokenizer-zoo[mesh]'"
        ) from error

    shape = (grid.side,) * 3
    if crossed is None:
        mask = None
        if not (grid.values > 0).any():
            raise ValueError(_nothing(grid))
    else:
        mask = np.zeros(shape, bool)  # scikit-image asks for a cell at its last node
        mask[1:, 1:, 1:] = crossed.reshape(shape)[:-1, :-1, :-1]
        np.nan_to_num(grid.values, copy=False, nan=-1.0)
    vertices, faces, _, _ = marching_cubes(grid.values.reshape(shape), 0.0, gradient_direction="ascent", mask=mask)
    placed = vertices.astype(np.float64) * (2 * grid.bounds / grid.resolution) - grid.bounds
    return Extraction(Mesh(placed, faces.astype(np.int64)), grid.resolution, grid.evaluations)


def _nothing(grid: _Grid) -> str:
    known = grid.values[~np.isnan(grid.values)]
    return (
        f"nothing to extract: none of {grid.evaluations:,} values in [-{grid.bounds:g}, {grid.bounds:g}]^3 is above "
        f"the level {grid.level:g}, the highest is {known.max() + grid.level:.4g}; the codes decode to an empty shape"
    )
