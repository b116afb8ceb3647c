"""A mesh to tokens and back, with the tokenizer that comes with the package: the part of `make demo` with shapes.

    python scripts/demo_shapes.py
    python scripts/demo_shapes.py --mesh my/chair.glb --output my/demo

Files in the output folder, replaced when they exist:

    vat_tiny_NAME.safetensors    the tokens of the mesh
    vat_tiny_NAME.glb            what they decode to
    vat_tiny_NAME.png            the mesh and that, from the front and the back
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.images import write_image
from zoo.data.sheet import Panel, side_by_side
from zoo.families import ShapeTokenizer
from zoo.shapes.extraction import extract
from zoo.shapes.meshes import Mesh, read_mesh, write_mesh
from zoo.shapes.placement import Frame
from zoo.shapes.render import views
from zoo.shapes.sampling import sample_surface
from zoo.tokens import Tokens

ROOT = Path(__file__).resolve().parents[1]
MODEL = "vat_tiny"
MESH = ROOT / "docs/assets/shapes/bedside_table.glb"


def main(
    mesh: Annotated[Path, typer.Option(help="OBJ, GLB, PLY or STL file.")] = MESH,
    output: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="Shape tokenizer: a name or a folder.")] = MODEL,
    resolution: Annotated[int, typer.Option(help="Cells along each side of the grid of the new mesh.")] = 128,
) -> None:
    """Send a mesh through the tokenizer; write tokens, mesh and a picture of both, print what they cost."""
    for path in shape(mesh, output, model, resolution, Console()):
        typer.echo(f"Wrote {path}")


def shape(path: Path, output: Path, source: str, resolution: int, console: Console) -> list[Path]:
    """What `main` does; gives the files that it wrote."""
    tokenizer, mesh = zoo.load(source), read_mesh(path)
    if not isinstance(tokenizer, ShapeTokenizer):
        raise ValueError(f"{source} is a tokenizer for {tokenizer.spec.modality}, the demo needs one for shapes")
    tokens = encode(tokenizer, mesh)
    made, share = decode(tokenizer, tokens, resolution)
    bits = None if tokenizer.spec.continuous else float(tokens.bits()[0])
    size = "" if bits is None else f"{math.ceil(bits / 8):,}"
    console.print(table(Path(source).name, path, mesh, tokens, size, made, share), highlight=False)
    console.print()
    stem = output / f"{Path(source).name}_{path.stem}"
    output.mkdir(parents=True, exist_ok=True)
    tokens.save(stem.with_suffix(".safetensors"), model=source, source=path.name, shape='{"kind": "mesh"}')
    facts = [f"{tokens.num_tokens:,} tokens" + (f", {size} bytes" if size else ""), f"{len(made.faces):,} triangles"]
    panels = [
        Panel(views(mesh), path.name, [f"{len(mesh.faces):,} triangles, {path.stat().st_size:,} bytes"]),
        Panel(views(made, like=mesh), "from tokens", facts),
    ]
    picture = write_image(stem.with_suffix(".png"), side_by_side(panels))
    return [stem.with_suffix(".safetensors"), write_mesh(stem.with_suffix(".glb"), made), picture]


@torch.inference_mode()
def encode(tokenizer: ShapeTokenizer, mesh: Mesh) -> Tokens:
    """Tokens of a mesh, which know where it was and how large."""
    count, columns = tokenizer.spec.input_shape
    frame = Frame.around(mesh.vertices, tokenizer.placement.kind, tokenizer.placement.extent)
    points, normals = sample_surface(mesh, count, np.random.default_rng(0))
    cloud = np.concatenate([frame.normalise(points), normals], axis=1)[:, :columns]
    tokens = tokenizer.encode(torch.from_numpy(cloud).float()[None])
    return replace(tokens, size=torch.tensor([frame.numbers], dtype=torch.float64))


@torch.inference_mode()
def decode(tokenizer: ShapeTokenizer, tokens: Tokens, resolution: int) -> tuple[Mesh, float]:
    """The mesh of one item's tokens at its place and size, and the share of the grid that was evaluated."""
    assert tokens.size is not None
    found = extract(tokenizer.field(tokens), resolution=resolution, level=tokenizer.level)
    frame = Frame.of(tokens.size[0].numpy())
    return Mesh(frame.restore(found.mesh.vertices), found.mesh.faces), found.share


def table(model: str, path: Path, mesh: Mesh, tokens: Tokens, size: str, made: Mesh, share: float) -> Table:
    """The numbers."""
    result = Table(title=model, title_style="bold", title_justify="left", box=None, pad_edge=False)
    result.add_column("shape")
    for column in ("triangles", "file, bytes", "tokens", "bytes", "triangles again", "grid evaluated"):
        result.add_column(column, justify="right")
    before = (f"{len(mesh.faces):,}", f"{path.stat().st_size:,}")
    result.add_row(path.stem, *before, f"{tokens.num_tokens:,}", size, f"{len(made.faces):,}", f"{share:.1%}")
    return result


if __name__ == "__main__":
    typer.run(main)
