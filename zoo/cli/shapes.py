"""What `zoo tokenize`, `zoo detokenize` and `zoo reconstruct` do with meshes and point clouds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.cli.inputs import Item
from zoo.cli.jobs import Job
from zoo.cli.options import DtypeName, Surfaces, UpName, precision
from zoo.cli.sampling import Sampling

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from zoo.families.shape import Field, ShapeTokenizer
    from zoo.shapes.extraction import Extraction
    from zoo.shapes.meshes import Cloud, Mesh
    from zoo.shapes.placement import Frame
    from zoo.tokenizer import Tokenizer
    from zoo.tokens import Tokens

__all__ = ["Plan", "Read", "plan_shapes", "restore_shape", "send_through", "tokenize_shapes"]

POINTS = 100_000  # that Chamfer distances and F-scores are measured with
QUERIES = 1 << 15  # of IoU
THRESHOLDS = (0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Plan:
    """How shapes are encoded and meshes made.

    Attributes:
        model: its name, as it was given.
        dtype: of encoder and decoder.
        surfaces: options of extraction and of pictures.
        sampling: of stochastic decoders.
    """

    tokenizer: ShapeTokenizer
    model: str
    dtype: DtypeName
    surfaces: Surfaces
    sampling: Sampling

    def read(self, path: Path) -> Read:
        """A file as a cloud that the tokenizer takes; its points are always the same.

        Raises:
            ValueError: unusable, or a cloud without the normals that the tokenizer reads.
        """
        import numpy as np
        import torch

        from zoo.shapes.meshes import Mesh, read_shape
        from zoo.shapes.placement import Frame

        shape = read_shape(path)
        points = shape.vertices if isinstance(shape, Mesh) else shape.points
        placement, (count, columns) = self.tokenizer.placement, self.tokenizer.spec.input_shape
        frame = Frame.around(points, placement.kind, placement.extent)
        placed, normals = drawn(shape, count, np.random.default_rng(0))
        parts = [frame.normalise(placed)]
        if columns == 6:
            if normals is None:
                raise ValueError(
                    f"{path}: {self.model} reads normals, the cloud has none; give them as `normals` (NPZ) or nx, ny, "
                    "nz (PLY)"
                )
            parts.append(normals)
        return Read(shape, frame, torch.from_numpy(np.concatenate(parts, axis=1)).float())

    def encode(self, shapes: Sequence[Read]) -> list[Tokens]:
        """Codes of clouds of one size, on the CPU, with their frames."""
        import torch

        batch = torch.stack([shape.cloud for shape in shapes]).to(self.tokenizer.device)
        with torch.inference_mode(), precision(self.tokenizer, self.dtype):
            tokens = self.tokenizer.encode(batch).to("cpu")
        frames = torch.tensor([shape.frame.numbers for shape in shapes], dtype=torch.float64)
        tokens = replace(tokens, size=frames)
        return [tokens[number] for number in range(len(shapes))]

    def field(self, tokens: Tokens) -> Field:
        """What codes of one shape stand for."""
        import torch

        with torch.inference_mode(), precision(self.tokenizer, self.dtype):
            return self.tokenizer.field(tokens.to(self.tokenizer.device))

    def surface(self, field: Field) -> Extraction:
        """The mesh of a field, in the tokenizer's frame."""
        from zoo.shapes.extraction import extract

        with precision(self.tokenizer, self.dtype):
            return extract(
                field,
                resolution=self.surfaces.resolution,
                level=self.tokenizer.level,
                query_batch=self.surfaces.query_batch,
            )


@dataclass(frozen=True, slots=True)
class Read:
    """A shape ready for a tokenizer.

    Attributes:
        shape: as it is in the file.
        frame: where it is placed.
        cloud: (P, C) float32 in the tokenizer's frame.
    """

    shape: Mesh | Cloud
    frame: Frame
    cloud: Tensor


def plan_shapes(
    tokenizer: Tokenizer, model: str, dtype: DtypeName, surfaces: Surfaces, sampling: Sampling
) -> Plan | None:
    """The plan for a tokenizer of shapes, None for one of other things."""
    from zoo.families.shape import ShapeTokenizer

    return Plan(tokenizer, model, dtype, surfaces, sampling) if isinstance(tokenizer, ShapeTokenizer) else None


def drawn(shape: Mesh | Cloud, count: int, rng: Generator) -> tuple[Any, Any]:
    """Points (P, 3) of a surface, and normals (P, 3) or None; P is `count`, or fewer where a cloud has fewer."""
    from zoo.shapes.meshes import Mesh
    from zoo.shapes.sampling import sample_surface

    if isinstance(shape, Mesh):
        return sample_surface(shape, count, rng)
    kept = rng.permutation(len(shape.points))[:count] if len(shape.points) > count else slice(None)
    return shape.points[kept], None if shape.normals is None else shape.normals[kept]


def tokenize_shapes(job: Job, plan: Plan, pairs: Iterable[tuple[Item, Path]], batch_size: int, overwrite: bool) -> None:
    """Write a token file for every shape."""
    waiting: list[tuple[Item, Path, Read]] = []
    for item, target in pairs:
        if target.exists() and not overwrite:
            job.skip()
            continue
        try:
            shape = plan.read(item.path)
        except Exception as error:
            job.fail(item, error)
            continue
        if waiting and (len(waiting) == batch_size or waiting[0][2].cloud.shape != shape.cloud.shape):
            _write(job, plan, waiting)
            waiting = []
        waiting.append((item, target, shape))
    _write(job, plan, waiting)


def _write(job: Job, plan: Plan, waiting: Sequence[tuple[Item, Path, Read]]) -> None:
    """Token files of clouds of one size; those that fail together are tried one by one."""
    try:
        found = plan.encode([shape for _, _, shape in waiting]) if waiting else []
    except Exception as error:
        if len(waiting) == 1:
            job.fail(waiting[0][0], error)
        else:
            for one in waiting:
                _write(job, plan, [one])
        return
    for (item, target, shape), tokens in zip(waiting, found, strict=True):
        with job.guard(item):
            facts = {"kind": type(shape.shape).__name__.lower()}
            tokens.save(target, model=plan.model, source=item.path.name, shape=json.dumps(facts))


def restore_shape(plan: Plan, tokens: Tokens, target: Path) -> None:
    """Write the mesh of a token file, at its own place and size; one with several items gives several, numbered."""
    from zoo.shapes.meshes import write_mesh

    for number in range(len(tokens)):
        one = tokens[number]
        mesh = _back(plan.surface(plan.field(one)).mesh, one)
        write_mesh(target if len(tokens) == 1 else target.with_stem(f"{target.stem}-{number:04d}"), mesh)


def _back(mesh: Mesh, tokens: Tokens) -> Mesh:
    """A mesh in the units of the file that its tokens came from; as it is where they do not say."""
    from zoo.shapes.meshes import Mesh
    from zoo.shapes.placement import Frame

    if tokens.size is None or not tokens.size.is_floating_point():
        return mesh
    return Mesh(Frame.of(tokens.size[0].double().numpy()).restore(mesh.vertices), mesh.faces)


def send_through(
    plan: Plan, pairs: Iterable[tuple[Item, Path]], counts: Sequence[int | None], job: Job, overwrite: bool
) -> Iterator[dict[str, Any]]:
    """Write the reconstruction of each shape at its target, and a picture of both beside it; what was measured.

    Args:
        counts: tokens to decode, several for several meshes, `NAME-COUNT`; [None] for all.
    """
    for item, target in pairs:
        if target.exists() and not overwrite:
            job.skip()
            continue
        with job.guard(item):
            yield from _reconstruct(plan, item, target, counts)


def _reconstruct(plan: Plan, item: Item, target: Path, counts: Sequence[int | None]) -> list[dict[str, Any]]:
    from zoo.data.images import write_image
    from zoo.data.sheet import Panel, side_by_side
    from zoo.shapes.meshes import Mesh, write_mesh
    from zoo.shapes.render import views

    shape = plan.read(item.path)
    code = plan.encode([shape])[0]
    whole = shape.shape
    size = f"{len(whole.faces):,} triangles" if isinstance(whole, Mesh) else f"{len(whole.points):,} points"
    up: Literal["y", "z"] = "z" if plan.surfaces.up is UpName.z else "y"
    name = plan.model.rstrip("/").split("/")[-1]
    panels = [Panel(views(whole, up=up), item.path.name, [size])]
    rows = []
    for count in counts:
        tokens = code if count is None else code.keep(count)
        field = plan.field(tokens)
        made = plan.surface(field)
        mesh = _back(made.mesh, tokens)
        path = target if len(counts) == 1 else target.with_stem(f"{target.stem}-{count}")
        write_mesh(path, mesh)
        facts: dict[str, Any] = {"tokens": int(tokens.mask.sum())}
        if tokens.codebook_sizes:
            bits = float(tokens.bits()[0])
            facts |= {"bits": round(bits, 2), "bytes": math.ceil(bits / 8)}
        facts |= {"triangles": len(mesh.faces), "evaluated": round(made.share, 5)}
        facts |= measure(shape, mesh, field)
        panels.append(Panel(views(mesh, up=up, like=whole), f"{name}: {facts['tokens']:,} tokens", _lines(facts)))
        rows.append({"input": str(item.path), "output": str(path), **facts})
    picture = write_image(target.with_suffix(".png"), side_by_side(panels, columns=1 if len(panels) > 2 else None))
    return [row | {"picture": str(picture)} for row in rows]


def measure(shape: Read, mesh: Mesh, field: Field) -> dict[str, Any]:
    """How close a mesh is to the shape in the file, both in the frame where the longest side of that is [-1, 1].

    Chamfer distance (sum of both mean distances) and F-scores of points of both surfaces; for meshes the volume IoU
    too, by the fast winding number, with the share of points where that is unclear.
    """
    import numpy as np
    import torch

    from zoo.metrics.shapes import SurfaceDistance
    from zoo.shapes.meshes import Mesh
    from zoo.shapes.placement import Frame
    from zoo.shapes.winding import ambiguous, winding_number

    points = shape.shape.vertices if isinstance(shape.shape, Mesh) else shape.shape.points
    frame, rng = Frame.around(points, "box", 1.0), np.random.default_rng(1)
    there, _ = drawn(shape.shape, POINTS, rng)
    here, _ = drawn(mesh, len(there), rng)
    metric = SurfaceDistance(len(there), THRESHOLDS)
    pair = (torch.from_numpy(frame.normalise(cloud)) for cloud in (here, there))
    numbers = dict(zip(metric.names, metric.score(*pair).tolist(), strict=True))
    facts = {name: round(numbers[name], 5) for name in ("chamfer_sum", *(f"f_score@{edge:g}" for edge in THRESHOLDS))}
    if not isinstance(shape.shape, Mesh):
        return facts
    queries = rng.uniform(-field.bounds, field.bounds, (QUERIES, 3))
    winding = winding_number(shape.shape, shape.frame.restore(queries))
    inside = np.abs(winding) > 0.5
    with torch.inference_mode():
        found = field(torch.from_numpy(queries).float()[None])[0].cpu().numpy() > 0
    either = (inside | found).sum()
    iou = float((inside & found).sum() / either) if either else None
    return facts | {"iou": None if iou is None else round(iou, 5), "ambiguous": round(ambiguous(winding), 5)}


def _lines(facts: Mapping[str, Any]) -> list[str]:
    size = f"{facts['bytes']:,} bytes, " if "bytes" in facts else ""
    lines = [f"{size}{facts['triangles']:,} triangles"]
    near = f"Chamfer {facts['chamfer_sum']:.4f}, F@0.02 {facts['f_score@0.02']:.3f}"
    return [*lines, near + (f", IoU {facts['iou']:.3f}" if facts.get("iou") is not None else "")]
