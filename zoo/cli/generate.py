"""`zoo generate`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import BatchSize, Device, Resolution, complain, find_device

if TYPE_CHECKING:
    from zoo.generators.pipeline import Pipeline
    from zoo.tokens import Tokens

__all__ = ["generate"]


def generate(
    name: Annotated[str, typer.Argument(help="Generator: a card's name, the folder of a training, or a hub id.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A picture, for a grid of all; a sound or a shape, several of which are numbered; or a .safetensors "
            "file, for the tokens.",
        ),
    ],
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", help="Number or name; several are taken in turns. By default all classes."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Items.")] = 16,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="0 takes the likeliest codes; by default the generator's own, mostly 1."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among so many likeliest codes.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest codes that hold this share.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none, 2 follows the class more.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Passes, for generators that choose how many.")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="What decodes; by default the tokenizer that the generator names.")
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Of the grid; by default about as many as rows.")] = None,
    resolution: Resolution = 128,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Draw new items: pictures as a grid (PNG, JPG, WebP), sounds (WAV, FLAC), shapes (GLB, OBJ, PLY, STL), or tokens.

    \b
    Examples:
      zoo generate runs/gpt_tiny/model -n 16 -o grid.png
      zoo generate runs/gpt_tiny/model --class 3 -n 4 --guidance 2 --top-k 200 -o grid.png
      zoo generate runs/gpt_speech/model -n 4 -o spoken.wav
      zoo generate runs/gpt_shapes/model -n 4 -o chair.glb
      zoo generate runs/gpt_tiny/model -n 1000 -o codes.safetensors
    """
    import torch

    from zoo.generators.pipeline import Pipeline
    from zoo.tokens import Tokens

    with complain():
        pipeline = Pipeline.load(name, tokenizer=tokenizer, device=find_device(device))
        _check(output, pipeline)
        labels = _labels(pipeline, class_, count)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance, "steps": steps}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options["generator"] = torch.Generator().manual_seed(seed)
        began, parts = time.perf_counter(), []
        for first in range(0, count, batch_size):
            part = None if labels is None else labels[first : first + batch_size]
            parts.append(pipeline.tokens(part, min(batch_size, count - first), **options))
        seconds = time.perf_counter() - began
        tokens = Tokens.cat([part.to("cpu") for part in parts])
        written = _write(pipeline, tokens, output, columns, resolution)
    drawn = int(tokens.mask.sum())
    facts = {"items": count, "tokens": drawn, "seconds": round(seconds, 3), "files": [str(path) for path in written]}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        shown = f"{written[0]}" + (f" to {written[-1].name}" if len(written) > 1 else "")
        typer.echo(f"{count} items, {drawn:,} tokens in {seconds:.1f} s ({drawn / seconds:,.0f} tokens/s): {shown}")


def _labels(pipeline: Pipeline, given: list[str] | None, count: int) -> list[int | str] | None:
    """One class for every item."""
    if given:
        chosen: list[int | str] = [pipeline.label(name) for name in given]
    elif pipeline.generator.classes is None:
        return None
    else:
        chosen = list(range(pipeline.generator.classes))
    return [chosen[number % len(chosen)] for number in range(count)]


def _check(output: Path, pipeline: Pipeline) -> None:
    """Raise ValueError unless the name of the output fits what is generated."""
    from zoo.data.audio import WRITABLE_AUDIO
    from zoo.data.images import WRITABLE
    from zoo.shapes.meshes import WRITABLE_MESHES

    spec = pipeline.tokenizer.spec
    fits = {"image": WRITABLE, "audio": WRITABLE_AUDIO, "shape": WRITABLE_MESHES}[spec.modality]
    if output.suffix.lower() not in (*fits, ".safetensors"):
        raise ValueError(
            f"-o of a generator of {spec.modality} ends with {', '.join(fits)} or .safetensors, got {output}"
        )
    if not spec.decodes and output.suffix != ".safetensors":
        raise ValueError("the tokenizer only encodes, so there is nothing to see; write the tokens to a .safetensors")


def _write(pipeline: Pipeline, tokens: Tokens, output: Path, columns: int | None, resolution: int) -> list[Path]:
    """The files of all items."""
    modality = pipeline.tokenizer.spec.modality
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".safetensors":
        tokens.save(output, model=str(pipeline.generator.tokenizer))
        return [output]
    if modality == "image":
        return [_grid(pipeline, tokens, output, columns)]
    digits = len(str(len(tokens) - 1))
    paths = [output] if len(tokens) == 1 else [
        output.with_stem(f"{output.stem}-{number:0{digits}d}") for number in range(len(tokens))
    ]  # fmt: skip
    write = _sounds(pipeline, tokens) if modality == "audio" else _shapes(pipeline, tokens, resolution)
    for path, put in zip(paths, write, strict=True):
        put(path)
    return paths


def _grid(pipeline: Pipeline, tokens: Tokens, output: Path, columns: int | None) -> Path:
    from math import ceil, sqrt

    from torchvision.utils import make_grid

    from zoo.data.images import write_image

    pictures = [picture.clamp(-1, 1) for picture in pipeline.decode(tokens)]
    grid = make_grid(pictures, nrow=columns or ceil(sqrt(len(pictures))), padding=2, pad_value=1.0)
    return write_image(output, grid)


def _sounds(pipeline: Pipeline, tokens: Tokens) -> Iterator[Any]:
    """For each sound what writes it to a path."""
    from functools import partial

    from zoo.data.audio import write_audio

    rate = pipeline.tokenizer.spec.sample_rate
    assert rate is not None
    for sound in pipeline.decode(tokens):
        yield partial(write_audio, sound=sound, sample_rate=rate)


def _shapes(pipeline: Pipeline, tokens: Tokens, resolution: int) -> Iterator[Any]:
    """For each shape what writes it to a path."""
    from functools import partial

    from zoo.cli.options import DtypeName, Surfaces
    from zoo.cli.sampling import Sampling
    from zoo.cli.shapes import plan_shapes, restore_shape

    plan = plan_shapes(pipeline.tokenizer, "", DtypeName.float32, Surfaces(resolution), Sampling())
    assert plan is not None
    for number in range(len(tokens)):
        yield partial(restore_shape, plan, tokens[number])
