"""Quality of an embedded shape tokenizer on meshes that it was not trained on, beside Draco.

    python scripts/open_shapes.py data/open_shapes
    python benchmarks/embedded_shapes.py --shapes data/open_shapes --model vat_tiny --json numbers.json

Two sets are reported apart: random_urdfs, procedural objects of the same make as a good half of the training set, and
furniture of five collections. Clouds are drawn from the prepared files with a fixed seed.

Volume IoU is over the uniform queries of the prepared file (16 384 in the tokenizer's cube); with fewer tokens it shows
what the first scales say. Chamfer distance (the sum of both mean distances) and F-scores compare 100 000 points of the
original surface with as many of the mesh extracted at `--resolution`, in the frame where the longest side of the
original is [-1, 1]. Every number is a mean over shapes. A shape that comes back without a surface has F-scores of 0; it
is left out of the Chamfer distance, and "surfaces" is the share of shapes that have one. The row "floor" compares two
samplings of the original: no mesh gets better numbers. Bytes are log2 of the codebook's size times the tokens, over 8.

Draco is DracoPy, which stores vertices and triangles as they are, positions rounded to so many bits, at its highest
compression. Its bytes are those of its files. Where DracoPy is not installed, Draco is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import zoo
from benchmarks.report import publish
from zoo.families.shape import ShapeTokenizer
from zoo.metrics import codebook_perplexity, codebook_usage
from zoo.metrics.shapes import SurfaceDistance
from zoo.shapes.extraction import extract
from zoo.shapes.meshes import Mesh, read_mesh
from zoo.shapes.placement import Frame
from zoo.shapes.prepared import parse_prepared
from zoo.shapes.sampling import sample_surface
from zoo.tokens import Tokens

__all__ = ["NUMBERS", "SETS", "HeldOut", "Shape", "draco", "main", "measure"]

SCRIPT = "benchmarks/embedded_shapes.py"
POINTS = 100_000
THRESHOLDS = (0.02, 0.05)
BITS = (4, 5, 6)  # of a coordinate, for Draco
FLOOR = "floor"
# What is measured, in the order of the table's columns: how it is printed.
NUMBERS = {
    "volume IoU": "{:.3f}",
    "F-score@0.02": "{:.3f}",
    "F-score@0.05": "{:.3f}",
    "Chamfer distance": "{:.4f}",
    "bytes a shape": "{:,.0f}",
    "surfaces": "{:.2f}",
    "codebook usage": "{:.2%}",
    "codebook perplexity": "{:,.0f}",
}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Collections of `scripts/open_shapes.py` that are reported together."""

    name: str
    title: str
    collections: tuple[str, ...]


SETS = (
    HeldOut("random_urdfs", "procedural objects of pybullet", ("random_urdfs",)),
    HeldOut(
        "furniture",
        "sweethome3d-furniture, five collections",
        ("blendswap_cc0", "blendswap_cc_by", "katorlegaz", "scopia", "reallusion"),
    ),
)


@dataclass(frozen=True)
class Shape:
    """A held-out shape.

    Attributes:
        name: collection and stem.
        mesh: as it was made, in the frame where its longest side is [-1, 1].
        cloud: (1, P, 6) points and normals of the surface, in the frame of the prepared file.
        queries: (Q, 3) uniform in the cube, in that frame.
        inside: (Q,) bool.
        frames: (4,) numbers of the frames of the mesh and of the cloud.
    """

    name: str
    mesh: Mesh
    cloud: Tensor
    queries: Tensor
    inside: Tensor
    frames: tuple[Frame, Frame]

    def from_cloud(self, mesh: Mesh) -> Mesh:
        """A mesh in the frame of the cloud, in that of `mesh`."""
        ours, theirs = self.frames
        return Mesh(ours.normalise(theirs.restore(mesh.vertices)), mesh.faces)


def shapes(root: Path, held_out: HeldOut, points: int, every: int = 1) -> Iterator[Shape]:
    """The shapes of a set, or every so many of them in the order of their names.

    Args:
        root: what scripts/open_shapes.py made.
        held_out: which set.
        points: P of a cloud.
        every: how many.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(path for name in held_out.collections for path in (root / "test" / name).glob("*.safetensors"))
    if not found:
        raise FileNotFoundError(
            f"no shapes of {held_out.name} in {root}/test; run `python scripts/open_shapes.py` first"
        )
    for path in found[::every]:
        arrays = parse_prepared(path.read_bytes())
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(arrays["points"]), points, replace=points > len(arrays["points"]))
        cloud = np.concatenate([arrays["points"][chosen], arrays["normals"][chosen]], axis=1)
        mesh = read_mesh(root / "meshes" / path.relative_to(root).with_suffix(".obj"))
        frame = Frame.around(mesh.vertices, "box", 1.0)
        inside = np.unpackbits(arrays["volume_inside"], count=len(arrays["volume"])).astype(bool)
        yield Shape(
            name=f"{path.parent.name}/{path.stem}",
            mesh=Mesh(frame.normalise(mesh.vertices), mesh.faces),
            cloud=torch.from_numpy(cloud).float()[None],
            queries=torch.from_numpy(arrays["volume"]).float(),
            inside=torch.from_numpy(inside),
            frames=(frame, Frame.of(arrays["frame"])),
        )


def draco(mesh: Mesh, bits: int) -> tuple[Mesh, int]:
    """A mesh through Draco: what comes back, and the bytes of its file."""
    import DracoPy

    data = DracoPy.encode(
        mesh.vertices.astype(np.float32),
        faces=mesh.faces.astype(np.uint32),
        quantization_bits=bits,
        compression_level=10,
        quantization_range=2.0,
        quantization_origin=[-1.0, -1.0, -1.0],
    )
    decoded = DracoPy.decode(data)
    return Mesh(np.asarray(decoded.points, dtype=np.float64), np.asarray(decoded.faces, dtype=np.int64)), len(data)


def draco_name(bits: int) -> str:
    """How Draco at a precision is called."""
    return f"Draco {bits} bits"


def surface(mesh: Mesh, seed: int) -> Tensor:
    """Points (POINTS, 3) of a mesh; NaN where it has no area."""
    try:
        points, _ = sample_surface(mesh, POINTS, np.random.default_rng(seed))
    except ValueError:
        return torch.full((POINTS, 3), torch.nan)
    return torch.from_numpy(points)


def distances(metric: SurfaceDistance, output: Tensor, target: Tensor) -> dict[str, float]:
    """Chamfer distance and F-scores of two clouds."""
    found = dict(zip(metric.names, metric.score(output, target).tolist(), strict=True))
    if np.isnan(found["chamfer_sum"]):
        return {f"F-score@{edge:g}": 0.0 for edge in THRESHOLDS} | {"surfaces": 0.0}
    scores = {f"F-score@{edge:g}": found[f"f_score@{edge:g}"] for edge in THRESHOLDS}
    return scores | {"Chamfer distance": found["chamfer_sum"], "surfaces": 1.0}


@torch.inference_mode()
def measure(
    model: ShapeTokenizer, held_out: Sequence[Shape] | Iterator[Shape], bits: Sequence[int], resolution: int
) -> dict[tuple[str, int | None], dict[str, float]]:
    """All numbers of one set.

    Args:
        model: with codes.
        held_out: its shapes.
        bits: of Draco's coordinates; none to leave it out.
        resolution: of the extracted meshes.

    Returns:
        By codec ("tokens", "floor", "Draco 5 bits") and number of tokens (None where there are none): means.
    """
    metric, spec = SurfaceDistance(POINTS, THRESHOLDS), model.spec
    lists: dict[tuple[str, int | None], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    codes = []

    def count(codec: str, tokens: int | None, **values: float) -> None:
        for name, value in values.items():
            lists[codec, tokens][name].append(value)

    for shape in track(list(held_out), description="measuring", transient=True):
        original = surface(shape.mesh, 0)
        code = model.encode(shape.cloud.to(model.device))
        codes.append(code.indices.flatten())
        for length in prefixes(model):
            kept = code.keep(length) if length < spec.num_tokens else code
            field = model.field(kept)
            inside = field(shape.queries[None])[0].cpu() > model.level
            count("tokens", length, **{"volume IoU": iou(inside, shape.inside), "bytes a shape": size(kept)})
        try:
            made = shape.from_cloud(extract(field, resolution=resolution, level=model.level).mesh)
            output = surface(made, 1)
        except ValueError:  # nothing is inside
            output = torch.full((POINTS, 3), torch.nan)
        count("tokens", spec.num_tokens, **distances(metric, output, original))
        count(FLOOR, None, **distances(metric, surface(shape.mesh, 2), original))
        for precision in bits:
            decoded, cost = draco(shape.mesh, precision)
            values = distances(metric, surface(decoded, 1), original)
            count(draco_name(precision), spec.num_tokens, **values, **{"bytes a shape": float(cost)})
    means = {key: {name: float(np.mean(values)) for name, values in row.items()} for key, row in lists.items()}
    if len(spec.codebook_sizes) == 1:
        seen = torch.cat(codes).cpu()
        whole = means["tokens", spec.num_tokens]
        whole["codebook usage"] = float(codebook_usage(seen, spec.codebook_sizes[0]))
        whole["codebook perplexity"] = float(codebook_perplexity(seen, spec.codebook_sizes[0]))
    return means


def prefixes(model: ShapeTokenizer) -> list[int]:
    """Numbers of tokens that decode, the whole code last."""
    return np.cumsum(model.spec.scales).tolist() if model.spec.scales else [model.spec.num_tokens]


def iou(ours: Tensor, theirs: Tensor) -> float:
    """Intersection over union of two (Q,) bool; 1 where both are empty."""
    either = int((ours | theirs).sum())
    return int((ours & theirs).sum()) / either if either else 1.0


def size(tokens: Tokens) -> float:
    """Bytes of one shape's code."""
    return float(tokens.bits()[0]) / 8


def records(
    held_out: HeldOut, count: int, means: dict[tuple[str, int | None], dict[str, float]], resolution: int
) -> list[dict[str, Any]]:
    """The means as a flat list, each with its protocol."""
    protocol = {
        "set": held_out.name,
        "data": held_out.title,
        "crop": f"{count} held-out shapes, {POINTS:,} points, longest side 2, mesh at {resolution}",
        "shapes": count,
        "origin": f"measured: {SCRIPT}",
    }
    return [
        {"name": name, "value": value, "unit": "", "codec": codec, "tokens": tokens, **protocol}
        for (codec, tokens), row in means.items()
        for name, value in row.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, required=True, help="folder made by scripts/open_shapes.py")
    parser.add_argument("--model", required=True, help="name of an embedded model, or a model folder")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers with their protocol")
    parser.add_argument("--draco", type=int, nargs="*", default=BITS, help="bits of a coordinate for Draco")
    parser.add_argument("--every", type=int, default=1, help="measure one shape of so many")
    parser.add_argument("--resolution", type=int, default=128, help="cells along each side of the extracted meshes")
    parser.add_argument("--sets", nargs="+", choices=[item.name for item in SETS], default=[item.name for item in SETS])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    console = Console(width=150)
    model = zoo.load(options.model, device=options.device)
    if not isinstance(model, ShapeTokenizer) or model.spec.continuous or model.spec.input_shape[1] not in (3, 6):
        parser.error(f"{options.model} is no tokenizer of clouds with codes")
    bits = list(options.draco)
    if bits and importlib.util.find_spec("DracoPy") is None:
        console.print("Draco is left out: it needs `pip install DracoPy`", highlight=False)
        bits = []
    results: list[dict[str, Any]] = []
    for held_out in (item for item in SETS if item.name in options.sets):
        chosen = list(shapes(options.shapes, held_out, model.spec.input_shape[0], options.every))
        results += records(held_out, len(chosen), measure(model, chosen, bits, options.resolution), options.resolution)
    publish(
        options.model,
        results,
        {name: (name, form) for name, form in NUMBERS.items()},
        options.json,
        device=options.device,
        packages={"DracoPy": "DracoPy", "skimage": "scikit-image", "trimesh": "trimesh"},
    )


if __name__ == "__main__":
    main()
