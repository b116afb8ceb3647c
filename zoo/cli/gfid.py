"""`zoo gfid`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import Device, complain, find_device

if TYPE_CHECKING:
    from zoo.metrics.generation import Scores

__all__ = ["gfid"]

TITLES = {"fid": "FID", "sfid": "sFID", "inception_score": "Inception score"}


class ResizeName(StrEnum):
    """How pictures come to the 299 pixels of Inception."""

    tf1_bilinear = "tf1_bilinear"
    torch_bilinear = "torch_bilinear"
    pil_bicubic = "pil_bicubic"
    antialias = "antialias"


def gfid(
    samples: Annotated[str, typer.Argument(help="Pictures: a folder, tar shards, or an .npz file with arr_0.")],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Statistics (.npz in ADM's layout), or pictures as a folder, shards or .npz."),
    ] = None,
    network: Annotated[
        str, typer.Option(help="inception_fid, efficientnet_lite0 (offline), clip_vit_l14_336 or timm:NAME.")
    ] = "inception_fid",
    resize: Annotated[
        ResizeName | None, typer.Option(help="Of inception_fid; tf1_bilinear as ADM's evaluator does by default.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=2, help="Only so many samples, the first.")] = None,
    write_reference: Annotated[
        Path | None,
        typer.Option("--write-reference", help="Measure nothing; write the statistics of the pictures to this .npz."),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="NAME=FILE: a network's weights, instead of a download.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write numbers, protocol and notes to this file.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Pictures looked at together.")] = 32,
    device: Device = "auto",
) -> None:
    """Measure samples of a generator: FID, sFID, Inception score, precision and recall.

    Published numbers compare 50 000 samples with ADM's file of statistics, and its 10 000 pictures for precision and
    recall; with others a note says so. Samples that cannot be read are left out, named, and lead to exit code 1.

    \b
    Examples:
      zoo gfid samples/ --reference VIRTUAL_imagenet256_labeled.npz --json scores.json
      zoo gfid samples.npz --reference photos/ --network efficientnet_lite0
      zoo gfid photos/ --write-reference photos.npz
    """
    from zoo.metrics.generation import evaluate_samples, write_statistics

    options: dict[str, Any] = {} if resize is None else {"resize": resize.value}
    with complain():
        if (reference is None) == (write_reference is None):
            raise ValueError(
                "give --reference to measure samples, or --write-reference to write statistics of pictures"
            )
        files = _files(weights or [])
        at = find_device(device)
    with complain(), _progress() as progress:
        if write_reference is not None:
            written = write_statistics(
                write_reference,
                samples,
                network=network,
                count=count,
                batch_size=batch_size,
                device=at,
                weights=files,
                progress=progress,
                **options,
            )
            scores = None
        else:
            scores = evaluate_samples(
                samples,
                str(reference),
                network=network,
                count=count,
                batch_size=batch_size,
                device=at,
                weights=files,
                progress=progress,
                **options,
            )
    if scores is None:
        typer.echo(f"wrote {written}")
        return
    _print(scores)
    if output is not None:
        _write(output, scores)
    if scores.failed:
        raise typer.Exit(1)


def _files(given: list[str]) -> dict[str, Path]:
    """What `--weights` names.

    Raises:
        ValueError: it is not NAME=FILE.
    """
    pairs = [text.partition("=") for text in given]
    if bad := [text for text, (name, _, file) in zip(given, pairs, strict=True) if not (name and file)]:
        raise ValueError(f"--weights is NAME=FILE, such as inception_fid=weights.pth, got {bad[0]!r}")
    return {name: Path(file) for name, _, file in pairs}


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A counter of pictures on stderr."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} pictures"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.advance(task, count)


def _print(scores: Scores) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in scores.numbers.items():
        table.add_row(TITLES.get(name, name), f"{value:.4f}")
    console = Console(soft_wrap=True)
    console.print(table, highlight=False)
    said = {
        key: value for key, value in scores.protocol.items() if key in ("network", "resize", "neighbours", "splits")
    }
    console.print(", ".join(f"{key} {value}" for key, value in said.items()), highlight=False)
    for note in scores.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for failure in scores.failed[:10]:
        Console(stderr=True, soft_wrap=True).print(f"failed: {failure}", highlight=False, markup=False)


def _write(path: Path, scores: Scores) -> None:
    import zoo
    from zoo.store.files import replacing

    with replacing(path) as draft:
        draft.write_text(json.dumps({"zoo": zoo.__version__, **scores.to_dict()}, indent=1) + "\n", encoding="utf-8")
