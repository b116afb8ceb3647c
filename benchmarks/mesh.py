"""Speed of shape tokenizers: encoding, tokens to meshes on few nodes of the grid and on all, preparation of meshes.

    python benchmarks/mesh.py
    python benchmarks/mesh.py --models vat_tiny vecset_kl8 --resolutions 128 256 --dense 128 --markdown table.md
    python benchmarks/mesh.py --models --meshes data/chairs --count 100

Models are cards whose weights are in the package, or recipes, which have random weights: what those decode to is no
shape, so their decoder is run for its time and a ball put in place of its values. Meshes are also made from distances
to simple shapes, where the field costs almost nothing and what the search adds is seen. Few and all evaluations are
measured in one run, on the same field, and the two meshes compared. Preparation is that of `zoo prepare-meshes` in one
process. CPU seconds are those of the process; on a machine that others use they tell more than the wall clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

import zoo
from benchmarks.meters import machine
from scripts.demo_shapes import encode
from zoo.families import Field, ShapeTokenizer
from zoo.shapes.extraction import extract
from zoo.shapes.meshes import MESH_SUFFIXES, read_mesh
from zoo.shapes.prepared import Preparation, prepare
from zoo.store.cards import list_models

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "docs/assets/shapes"
HEADER = "| what | grid | evaluations | of the grid | fewer | CPU s | wall s | faster | triangles | same mesh |"


@dataclass(frozen=True)
class Row:
    """One line of the table; None where a column has no meaning."""

    what: str
    cpu: float
    wall: float
    grid: str = ""
    evaluations: int | None = None
    share: float | None = None
    fewer: float | None = None
    faster: float | None = None
    triangles: int | None = None
    same: bool | None = None

    def line(self) -> str:
        """As Markdown."""
        cells = [
            self.what,
            self.grid,
            "" if self.evaluations is None else f"{self.evaluations:,}",
            "" if self.share is None else f"{self.share:.2%}",
            "" if self.fewer is None else f"{self.fewer:.1f}x",
            f"{self.cpu:.3f}",
            f"{self.wall:.3f}",
            "" if self.faster is None else f"{self.faster:.1f}x",
            "" if self.triangles is None else f"{self.triangles:,}",
            "" if self.same is None else "yes" if self.same else "no",
        ]
        return f"| {' | '.join(cells)} |"


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """A result, and the CPU seconds and seconds on the clock that it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def ball(points: Tensor) -> Tensor:
    """Minus the distance from a ball."""
    return 0.8 - points.norm(dim=-1)


def stool(points: Tensor) -> Tensor:
    """Minus the distance from a round seat on three legs."""
    seat = torch.stack([points[..., :2].norm(dim=-1) - 0.7, (points[..., 2] - 0.6).abs() - 0.04], -1)
    found = -(seat.clamp_min(0).norm(dim=-1) + seat.amax(-1).clamp_max(0))
    for turn in (0.0, 2.1, 4.2):
        foot = points[..., :2] - 0.5 * torch.tensor([np.cos(turn), np.sin(turn)], dtype=points.dtype)
        height = (points[..., 2] + 0.15).abs().sub(0.75).clamp_min(0)
        found = torch.maximum(found, 0.04 - torch.hypot(foot.norm(dim=-1), height))
    return found


def disguised(query: Callable[[Any, Tensor], Tensor], state: Any, points: Tensor) -> Tensor:
    """The values of a ball, after as much work as those of a decoder."""
    return ball(points) + 0 * query(state, points).nan_to_num()


def encoding(tokenizer: ShapeTokenizer, name: str, repeats: int) -> Row:
    """One cloud of the usual number of points to tokens; the quickest of some repeats."""
    torch.manual_seed(0)
    points, columns = tokenizer.spec.input_shape
    normals = torch.nn.functional.normalize(torch.randn(1, points, 3), dim=-1)
    cloud = torch.cat([normals * 0.9, normals], -1)[..., :columns].to(tokenizer.device)
    times = [timed(lambda: tokenizer.encode(cloud)) for _ in range(repeats + 1)]
    return Row(f"{name}: encode {points:,} points", min(cpu for _, cpu, _ in times), min(wall for _, _, wall in times))


def making(what: str, field: Any, resolutions: Sequence[int], most: int, level: float = 0.0) -> Iterator[Row]:
    """Meshes of a field at some resolutions; on all nodes too, up to the resolution `most`."""
    for resolution in resolutions:
        few, cpu, wall = timed(partial(extract, field, resolution=resolution, level=level))
        facts: dict[str, Any] = {"fewer": (resolution + 1) ** 3 / few.evaluations}
        rows = []
        if resolution <= most:
            whole, all_cpu, all_wall = timed(partial(extract, field, resolution=resolution, level=level, stride=1))
            a, b = few.mesh, whole.mesh
            near = np.array_equal(a.faces, b.faces) and np.allclose(a.vertices, b.vertices, atol=1e-4)
            facts |= {"faster": all_cpu / cpu, "same": near}
            counts = {"evaluations": whole.evaluations, "share": whole.share, "triangles": len(b.faces)}
            rows.append(Row(f"{what}, all nodes", all_cpu, all_wall, f"{resolution}^3", **counts))
        counts = {"evaluations": few.evaluations, "share": few.share, "triangles": len(few.mesh.faces)}
        yield Row(what, cpu, wall, f"{resolution}^3", **counts, **facts)
        yield from rows


def preparation(folder: Path, count: int) -> Row:
    """Meshes of a folder, again and again until there are enough."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MESH_SUFFIXES)
    if not files:
        raise ValueError(f"no meshes in {folder}")
    how = Preparation(most_ambiguous=1.0)

    def work() -> None:
        for number, path in enumerate(islice(cycle(files), count)):
            prepare(read_mesh(path), how, f"{number}")

    _, cpu, wall = timed(work)
    return Row(f"prepare {count} meshes ({min(len(files), count)} files)", cpu, wall)


@torch.inference_mode()
def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every row."""
    for shape in (ball, stool):
        yield from making(f"distance from a {shape.__name__}", shape, options.resolutions, options.dense)
    for name in options.models:
        trained = name in list_models()
        tokenizer = (zoo.load(name) if trained else zoo.build(name).eval()).to(options.device)
        if not isinstance(tokenizer, ShapeTokenizer):
            raise ValueError(f"{name} is a tokenizer for {tokenizer.spec.modality}, not for shapes")
        yield encoding(tokenizer, name, options.repeats)
        tokens = encode(tokenizer, read_mesh(options.mesh)).to(tokenizer.device)
        field = tokenizer.field(tokens)
        if not trained:
            field = Field(partial(disguised, field.query), field.state, field.bounds)
        what = f"{name}: tokens to a mesh of {options.mesh.stem if trained else 'a ball'}"
        yield from making(what, field, options.resolutions, options.dense, tokenizer.level)
    if options.count:
        yield preparation(options.meshes, options.count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as it grows, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[name for name in ("vat_tiny",) if name in list_models()])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--dense", type=int, default=256, help="highest resolution of meshes from all nodes")
    parser.add_argument("--mesh", type=Path, default=SAMPLES / "bedside_table.glb", help="for trained models")
    parser.add_argument("--meshes", type=Path, default=SAMPLES, help="folder of meshes to prepare")
    parser.add_argument("--count", type=int, default=100, help="meshes to prepare, 0 for none")
    parser.add_argument("--repeats", type=int, default=3, help="of encoding")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{machine(torch.device(options.device))}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    lines = [HEADER, "|---|---|" + "--:|" * 8]
    print("\n".join(lines), flush=True)
    for row in measure(options):
        lines.append(row.line())
        print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
