"""Random points and queries of prepared shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from zoo.data.draws import Draws, ErrorLog, read_all
from zoo.data.shapes_batch import Shapes
from zoo.data.sources import Source
from zoo.shapes.placement import Kind
from zoo.shapes.prepared import parse_prepared

__all__ = ["ShapeDraws", "Symmetry", "Target"]

Symmetry = Literal["none", "upright", "cube"]
Target = Literal["occupancy", "sdf"]

Arrays = Mapping[str, np.ndarray]
Parts = tuple[np.ndarray, ...]


class ShapeDraws(Draws):
    """Random points and queries of the shapes of a source; what a draw gives depends on (seed, draw) alone.

    Args:
        source: named prepared shapes.
        indices: which of them belong to this set.
        points: P of a shape.
        volume: queries uniform in [-bounds, bounds]^3.
        near: queries near the surface.
        channels: 3 or 6; see `zoo.data.ShapeData`, as for the options below.
        sharp: share of points on sharp edges.
        target: what the values are.
        placement: how shapes fill the frame.
        extent: half side or radius that they get.
        bounds: half the side of the cube of the volume queries.
        seed: of the choices.
        stretch: factors along each axis.
        symmetry: which views.
        jitter: noise on the points.
        cache: read every file once and keep it in memory.
        errors: where unreadable files are recorded. A draw that meets one takes the next readable shape.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        points: int,
        volume: int,
        near: int,
        *,
        channels: int = 3,
        sharp: float = 0.0,
        target: Target = "occupancy",
        placement: Kind = "none",
        extent: float = 1.0,
        bounds: float = 1.0,
        seed: int = 0,
        stretch: tuple[float, float] | None = None,
        symmetry: Symmetry = "none",
        jitter: float = 0.0,
        cache: bool = False,
        errors: ErrorLog | None = None,
    ) -> None:
        super().__init__(source, indices, seed, errors)
        self.points, self.volume, self.near = points, volume, near
        self.channels, self.sharp, self.target = channels, round(sharp * points), target
        self.placement, self.extent, self.bounds = placement, extent, bounds
        self.stretch, self.symmetry, self.jitter = stretch, symmetry, jitter
        self._cached = read_all(self.indices, lambda index: self.attempt(index, self._read)) if cache else None

    def __getitem__(self, key: tuple[int, int]) -> Shapes:
        """The batch of one of a single `(index, draw)`."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Shapes:
        """The batch of several `(index, draw)`."""
        points, queries, values = map(torch.stack, zip(*(self._draw(*key) for key in keys), strict=True))
        near = torch.arange(self.volume + self.near) >= self.volume
        return Shapes(points, queries, values, near.expand(len(keys), -1).clone())

    def _draw(self, position: int, draw: int) -> list[torch.Tensor]:
        """Points (P, C), queries (Q, 3) and values (Q,) float32 of one shape."""

        def take(index: int, attempt: int) -> Parts | None:
            return self.attempt(index, lambda index: self._sample(self._arrays(index), self.rng(draw, attempt)))

        parts = self.first(position, take)[1]
        return [torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in parts]

    def _arrays(self, index: int) -> Arrays:
        return self._read(index) if self._cached is None else self._cached[index]

    def _read(self, index: int) -> Arrays:
        return parse_prepared(self.source.read(index))

    def _sample(self, arrays: Arrays, rng: np.random.Generator) -> Parts:
        scale = self._scale(arrays, rng)
        points, normals = self._surface(arrays, rng)
        volume, volume_values = self._volume(arrays, scale, rng)
        chosen = choose(len(arrays["near"]), self.near, rng)
        near, near_values = arrays["near"][chosen] * scale, self._values(arrays, "near", scale)[chosen]
        points, queries = points * scale, np.concatenate([volume, near])
        normals = normals / scale
        if self.symmetry != "none":
            points, normals, queries = turned((points, normals, queries), self.symmetry, rng)
        if self.jitter > 0:
            points = points + self.jitter * rng.standard_normal(points.shape)
        if self.channels == 6:
            normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
            points = np.concatenate([points, normals], axis=1)
        return points, queries, np.concatenate([volume_values, near_values])

    def _scale(self, arrays: Arrays, rng: np.random.Generator) -> np.ndarray:
        """(3,) factors from the frame of the file to that of the batch."""
        scale = np.ones(3) if self.stretch is None else rng.uniform(*self.stretch, 3)
        if self.placement == "box":
            size = float((arrays["extent"][:3] * scale).max())
        elif self.placement == "sphere":
            even = bool((scale == scale[0]).all())
            reach = np.linalg.norm(arrays["points"] * scale, axis=1).max() if not even else 0.0
            size = float(arrays["extent"][3] * scale[0] if even else reach)
        else:
            size = self.extent
        return scale * (self.extent / size)

    def _surface(self, arrays: Arrays, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, 3) and normals (P, 3) in the frame of the file."""
        sharp = self.sharp if len(arrays["sharp"]) else 0
        even = choose(len(arrays["points"]), self.points - sharp, rng)
        edges = choose(len(arrays["sharp"]), sharp, rng)
        points = np.concatenate([arrays["points"][even], arrays["sharp"][edges]]).astype(np.float64)
        normals = np.concatenate([arrays["normals"][even], arrays["sharp_normals"][edges]]).astype(np.float64)
        return points, normals

    def _volume(self, arrays: Arrays, scale: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Queries (Q, 3) uniform in the cube, and their values (Q,).

        Those of the file fill a box of half sides `scale`. What they leave of the cube is empty: where occupancy is
        wanted, it gets its share of the queries.
        """
        queries = arrays["volume"] * scale
        usable = np.flatnonzero((np.abs(queries) <= self.bounds).all(axis=1))
        chosen = usable[choose(len(usable), self.volume, rng)]
        queries, values = queries[chosen], self._values(arrays, "volume", scale)[chosen]
        if self.target == "occupancy" and (scale < self.bounds).any():
            anywhere = rng.uniform(-self.bounds, self.bounds, queries.shape)
            beyond = (np.abs(anywhere) > scale).any(axis=1)
            queries, values = np.where(beyond[:, None], anywhere, queries), np.where(beyond, 0, values)
        return queries, values

    def _values(self, arrays: Arrays, kind: str, scale: np.ndarray) -> np.ndarray:
        """What is wanted at all queries of a kind."""
        if self.target == "occupancy":
            return np.unpackbits(arrays[f"{kind}_inside"], count=len(arrays[kind]))
        return np.asarray(arrays[f"{kind}_sdf"] * scale[0])


def choose(pool: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different positions in [0, pool), repeated where there are too few."""
    return rng.choice(pool, count, replace=count > pool, shuffle=False) if count else np.zeros(0, np.int64)


def turned(parts: Parts, symmetry: Symmetry, rng: np.random.Generator) -> Parts:
    """Positions and directions (n, 3) in one of the views of a symmetry: axes swapped, and some reversed."""
    if symmetry == "upright":
        axes, signs = [2, 1, 0] if rng.random() < 0.5 else [0, 1, 2], rng.choice([-1, 1], 3)
        signs[1] = 1
    else:
        axes, signs = list(rng.permutation(3)), rng.choice([-1, 1], 3)
    return tuple(part[:, axes] * signs for part in parts)
