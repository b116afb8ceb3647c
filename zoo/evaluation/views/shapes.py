"""Shapes: placed as the tokenizer wants them, compared in a frame that all tokenizers share."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from zoo.data.sources import SHAPES, Kind
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Passage
from zoo.families.shape import Field, ShapeTokenizer
from zoo.metrics.shapes import FRAME
from zoo.shapes.extraction import extract
from zoo.shapes.meshes import CLOUD_SUFFIXES, MESH_SUFFIXES, Cloud, Floats, Mesh, read_shape, write_mesh
from zoo.shapes.placement import Frame
from zoo.shapes.prepared import parse_prepared
from zoo.shapes.render import Up, views
from zoo.shapes.sampling import sample_surface
from zoo.shapes.winding import ambiguous, winding_number

__all__ = ["FRAMES", "ShapeItem", "ShapeOptions", "ShapeView"]

FRAMES = {"original": FRAME, "own": "each shape's own bounding box fills [-1, 1] along its longest side"}
QUERIES = 1 << 15  # points of a field, over the batch, that are evaluated together


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """The node `view` of a protocol for shapes.

    Attributes:
        points: of the surface that a tokenizer gets; None for as many as it is used to.
        queries: uniform in [-1, 1]^3 around the original, for the volume IoU.
        resolution: cells along each side of the grid, over the tokenizer's bounds, of the meshes that are made.
        most_ambiguous: share of queries, in [0, 1], that may be neither clearly inside nor outside; with more, a
            surface counts as open, and is left out of the volume IoU.
        surface: points in each cloud that is compared.
        normals: whether normals are compared.
        outward: whether the triangles of originals are turned to face outwards first (`trimesh.repair.fix_normals`).
        frame: "original" compares in the frame in which the original's box fills [-1, 1]; "own" gives the
            reconstruction that of its own box.
        up: axis that points upwards in pictures.
    """

    points: int | None = None
    queries: int = 100_000
    most_ambiguous: float = 0.05
    resolution: int = 128
    surface: int = 100_000
    normals: bool = True
    outward: bool = False
    frame: Literal["original", "own"] = "original"
    up: Up = "y"

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("points", "queries", "resolution", "surface")}
        if any(count is not None and count < 1 for count in counts.values()):
            raise ValueError(f"view: {', '.join(counts)} are at least 1, got {counts}")
        if self.frame not in FRAMES or self.up not in ("y", "z"):
            raise ValueError(f"view: frame is original or own and up is y or z, got {self.frame!r} and {self.up!r}")

    @classmethod
    def read(cls, view: Mapping[str, Any]) -> Self:
        """The options that a protocol gives.

        Raises:
            ValueError: an unknown key, or a value out of range.
        """
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(view) - set(known)):
            raise ValueError(f"view of shapes: no option {', '.join(unknown)}; there are {', '.join(known)}")
        return cls(**view)


@dataclass(frozen=True, slots=True)
class ShapeItem:
    """A shape, and what is compared of it.

    Attributes:
        name: of the file.
        shape: as in the file.
        placed: where the tokenizer has it.
        compared: where it is compared.
        cloud: (P, C) float32 points for the tokenizer, in its frame.
        queries: (Q, 3) float32, in the tokenizer's frame.
        inside: (Q,) float32, 1 inside and 0 outside; NaN for a cloud or an open surface, which have no inside.
        surfaces: two samplings (S, 3 or 6) float32 of the surface in the frame where it is compared; none where no
            measure wants them.
    """

    name: str
    shape: Mesh | Cloud
    placed: Frame
    compared: Frame
    cloud: Tensor
    queries: Tensor
    inside: Tensor
    surfaces: tuple[Tensor, ...]


class ShapeView:
    """Meshes, point clouds and prepared shapes through a `ShapeTokenizer`; see `View`.

    Which points of a shape are drawn depends on the seed and its name alone. Prepared shapes
    (`zoo prepare-meshes`) bring their points and queries, and must have as many as the protocol asks for.
    """

    kind: ClassVar[Kind] = Kind("shapes", tuple(dict.fromkeys((*MESH_SUFFIXES, *CLOUD_SUFFIXES, *SHAPES.suffixes))), "")
    extent_unit: ClassVar[str] = "shape"

    def __init__(self, passage: Passage, view: Mapping[str, Any], *, surfaces: bool = False, seed: int = 0) -> None:
        if not isinstance(passage.tokenizer, ShapeTokenizer):
            raise ValueError(f"{type(passage.tokenizer).__name__} is no tokenizer of shapes")
        self.passage, self.tokenizer = passage, passage.tokenizer
        self.options, self.surfaces, self.seed = ShapeOptions.read(view), surfaces, seed
        self.points = self.options.points or self.tokenizer.spec.input_shape[0]
        if self.points < self.tokenizer.min_points:
            raise ValueError(
                f"the protocol gives tokenizers {self.points} points, this one needs {self.tokenizer.min_points}"
            )
        self._last: dict[str, tuple[ShapeItem, Mesh | None]] = {}  # of the outcome that was given last

    def read(self, data: bytes, name: str) -> ShapeItem:
        """A shape, placed and sampled.

        Raises:
            ValueError: the bytes are no shape, or hold less than the protocol wants.
        """
        rng = np.random.default_rng([self.seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])
        prepared = parse_prepared(data) if name.lower().endswith(SHAPES.suffixes) else None
        if prepared is None:
            shape = _parse(data, name)
        else:
            shape = Cloud(prepared["points"].astype(np.float64), prepared["normals"].astype(np.float64))
        if self.options.outward and isinstance(shape, Mesh):
            shape = _outward(shape)
        corners = shape.vertices if isinstance(shape, Mesh) else shape.points
        if prepared is not None:  # points are rounded and only near the box of the surface, which the file tells
            corners = np.stack([-prepared["extent"][:3], prepared["extent"][:3]]).astype(np.float64)
        placement = self.tokenizer.placement
        placed = Frame.around(corners, placement.kind, placement.extent)
        compared = Frame.around(corners, "box", 1.0)
        wide = self.tokenizer.spec.input_shape[1] == 6
        cloud = _float(_columns(placed, *_drawn(shape, self.points, rng), wide, "the tokenizer reads"))
        queries, inside = self._queries(shape, compared, prepared, rng)
        pair: list[Tensor] = []
        for _ in range(2 if self.surfaces else 0):
            found = _drawn(shape, self.options.surface, rng)
            pair.append(_float(_columns(compared, *found, self.options.normals, "the protocol compares")))
        known = _float(placed.normalise(queries)), _float(inside)
        return ShapeItem(name, shape, placed, compared, cloud, *known, tuple(pair))

    def shape(self, item: ShapeItem) -> Hashable:
        """Clouds and queries of equal size run together."""
        return tuple(item.cloud.shape), len(item.queries)

    def run(self, items: Sequence[ShapeItem], settings: Sequence[Setting]) -> Iterator[tuple[Setting, Outcome]]:
        """Encode clouds of one size once, and give fields and surfaces at every setting."""
        extent = torch.ones(len(items), dtype=torch.float64)
        code = self.passage.encode(torch.stack([item.cloud for item in items]), extent)
        queries = torch.stack([item.queries for item in items])
        target = torch.stack([item.inside for item in items])
        for setting in settings:
            tokens = self.passage.cut(code, setting)
            with self.passage.timed(setting, extent):
                field = self.tokenizer.field(tokens)
                output = _values(field, queries) - self.tokenizer.level
                meshes = [self._mesh(field[row]) if self.surfaces else None for row in range(len(items))]
            surfaces = None
            if self.surfaces:
                made = [self._sampled(item, mesh) for item, mesh in zip(items, meshes, strict=True)]
                first, again = (torch.stack([item.surfaces[place] for item in items]) for place in range(2))
                surfaces = (torch.stack(made), first, again)
            self._last = {item.name: (item, mesh) for item, mesh in zip(items, meshes, strict=True)}
            names = tuple(item.name for item in items)
            yield setting, Outcome(output, target, tokens, self.passage.spec, extent, names, surfaces=surfaces)

    def sample(self, outcome: Outcome, index: int, stem: Path, *, original: bool) -> Path:
        """A picture of a shape from two sides, white where there is none; a GLB of a mesh goes beside it.

        Of the outcome that `run` gave last.
        """
        from zoo.data.images import write_image

        item, mesh = self._last[outcome.names[index]]
        shape = item.shape if original else mesh
        picture = views(item.shape, up=self.options.up)
        if shape is None:
            picture = torch.ones_like(picture)
        elif isinstance(shape, Mesh):
            shape = shape if original else Mesh(item.placed.restore(shape.vertices), shape.faces)
            write_mesh(stem.with_name(f"{stem.name}.glb"), shape)
        if shape is not None and not original:
            picture = views(shape, up=self.options.up, like=item.shape)
        return write_image(stem.with_name(f"{stem.name}.png"), picture)

    def describe(self) -> dict[str, Any]:
        """The options as they are, and how shapes come to be compared."""
        placement = self.tokenizer.placement
        found = {**asdict(self.options), "points": self.points}
        found["placement"] = f"{placement.kind}, {placement.extent:g}"
        found["compared"] = FRAMES[self.options.frame]
        found["occupancy"] = "fast winding number above 1/2"
        found["timed"] = "field and queries" + (" and mesh" if self.surfaces else "")
        return found | {name: _version(name) for name in ("trimesh", "libigl", "scikit-image", "scipy")}

    def _queries(
        self, shape: Mesh | Cloud, compared: Frame, prepared: Mapping[str, Any] | None, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Queries (Q, 3) in the units of the file, and (Q,) 1 where they are inside; NaN where nobody can say."""
        count = self.options.queries
        if prepared is not None:
            inside = np.unpackbits(prepared["volume_inside"])
            if len(inside) < count:
                raise ValueError(f"the prepared shape has {len(inside):,} queries, the protocol {count:,}; use meshes")
            return prepared["volume"][:count].astype(np.float64), inside[:count].astype(np.float64)
        queries = compared.restore(rng.uniform(-1, 1, (count, 3)))
        if isinstance(shape, Cloud):
            return queries, np.full(count, np.nan)
        winding = winding_number(shape, queries)
        closed = ambiguous(winding) <= self.options.most_ambiguous
        return queries, np.where(closed, np.abs(winding) > 0.5, np.nan)

    def _mesh(self, field: Field) -> Mesh | None:
        """The surface of a field in the tokenizer's frame; None where there is none."""
        try:
            return extract(field, resolution=self.options.resolution, level=self.tokenizer.level).mesh
        except ValueError:  # nothing inside, or NaN
            return None

    def _sampled(self, item: ShapeItem, mesh: Mesh | None) -> Tensor:
        """(S, 3 or 6) points of a reconstruction in the frame where it is compared; NaN without one."""
        if mesh is None:
            return torch.full_like(item.surfaces[0], torch.nan)
        placed = Mesh(item.placed.restore(mesh.vertices), mesh.faces)
        frame = Frame.around(placed.vertices, "box", 1.0) if self.options.frame == "own" else item.compared
        found = sample_surface(placed, self.options.surface, np.random.default_rng([self.seed, 1]))
        return _float(_columns(frame, *found, self.options.normals, ""))


def _parse(data: bytes, name: str) -> Mesh | Cloud:
    """A mesh or cloud from the bytes of its file."""
    with TemporaryDirectory() as room:
        path = Path(room) / f"shape{Path(name).suffix}"
        path.write_bytes(data)
        try:
            return read_shape(path)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{path}: ", "").replace(str(path), name)) from error


def _outward(mesh: Mesh) -> Mesh:
    """The mesh with equal corners as one, and its triangles facing outwards where it is closed."""
    import trimesh

    found = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    found.fix_normals()
    return Mesh(np.asarray(found.vertices, np.float64), np.asarray(found.faces, np.int64))


def _drawn(shape: Mesh | Cloud, count: int, rng: np.random.Generator) -> tuple[Floats, Floats | None]:
    """`count` points (P, 3) of a surface and their normals, in the units of the file.

    Raises:
        ValueError: a cloud has fewer.
    """
    if isinstance(shape, Mesh):
        return sample_surface(shape, count, rng)
    if len(shape.points) < count:
        raise ValueError(f"the cloud has {len(shape.points):,} points, {count:,} are needed; use meshes")
    kept = rng.permutation(len(shape.points))[:count]
    return shape.points[kept], None if shape.normals is None else shape.normals[kept]


def _columns(frame: Frame, points: Floats, normals: Floats | None, wide: bool, who: str) -> Floats:
    """(P, 3) points in a frame, or (P, 6) with normals.

    Raises:
        ValueError: there are no normals.
    """
    placed = frame.normalise(points)
    if not wide:
        return placed
    if normals is None:
        raise ValueError(f"the cloud has no normals, which {who}; give them as `normals` (NPZ) or nx, ny, nz (PLY)")
    return np.concatenate([placed, normals], axis=1)


def _values(field: Field, queries: Tensor) -> Tensor:
    """(B, Q) float32 on the CPU: a field at points (B, Q, 3), a part of them at a time."""
    parts = queries.split(max(1, QUERIES // len(queries)), dim=1)
    return torch.cat([field(part.to(field.device)).cpu() for part in parts], dim=1)


def _float(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
