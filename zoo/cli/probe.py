"""`zoo probe`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import Item
from zoo.cli.options import BatchSize, Device, complain, open_tokenizer

if TYPE_CHECKING:
    from zoo.cli.jobs import Job
    from zoo.tokenizer import Tokenizer

__all__ = ["probe"]


class ProbeName(StrEnum):
    """What tells classes apart."""

    linear = "linear"
    knn = "knn"
    classifier = "classifier"


def probe(
    name: Annotated[str, typer.Argument(help="Name from `zoo list`, model folder, or hub id org/name.")],
    data: Annotated[Path, typer.Option("--data", help="One folder for each class; or labelled shards or data set.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .json file for results and protocol.")],
    test: Annotated[
        Path | None, typer.Option("--test", help="Test items of the same classes; else a fifth of --data.")
    ] = None,
    kinds: Annotated[
        list[ProbeName] | None,
        typer.Option("--kind", help="May be repeated; without it linear and knn, for sounds classifier too."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Side of pictures, for tokenizers that take any size.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each sound, from its start.")] = 10.0,
    neighbours: Annotated[int, typer.Option(min=1, help="Of the knn probe.")] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Of the classifier.")] = 30,
    repetitions: Annotated[int, typer.Option(min=1, help="Classifiers from different draws, averaged.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the classifier's draws.")] = 0,
    batch_size: BatchSize = 16,
    device: Device = "auto",
) -> None:
    """Tell classes apart by the tokens of a frozen tokenizer.

    Accuracies stand beside chance and the most frequent class, with a 95 % interval. Without --test a fifth of each
    class is set aside, chosen by a digest of the names, so that everyone sets aside the same.

    \b
    Examples:
      zoo probe fsq_f8_tiny --data photos_by_class/ -o fsq.json
      zoo probe wavtokenizer_tiny --data speakers/ --seconds 3 -o speakers.json
      zoo probe titok_l32_imagenet --data train/ --test val/ --kind linear -o titok.json
    """
    from zoo.cli.jobs import Job
    from zoo.probes.classifier import Schedule
    from zoo.probes.run import Probe

    with complain():
        if output.suffix.lower() != ".json":
            raise ValueError(f"-o names a .json file, got {output}")
        chosen = tuple(kind.value for kind in kinds) if kinds else None
        schedule = Schedule(epochs=epochs, repetitions=repetitions, seed=seed)
        how = Probe(chosen, neighbours=neighbours, schedule=schedule, size=size, seconds=seconds, batch_size=batch_size)
        tokenizer = open_tokenizer(name, device)
    with Job("encode", 0, output.parent / "errors.jsonl") as job, complain():
        found = _run(job, tokenizer, data, test, how, name)
        _write(output, found)
        _print(found, output)


def _run(job: Job, tokenizer: Tokenizer, data: Path, test: Path | None, how: Any, name: str) -> dict[str, Any]:
    from zoo.probes.run import probe as run

    def told(item: str, error: Exception | None) -> None:
        if error is None:
            job.finish()
        else:
            job.fail(Item(Path(item), Path(item)), error)

    def started(count: int) -> None:
        job.progress.update(job.task, total=count)

    return run(tokenizer, data, test, how, name=name, told=told, started=started)


def _write(output: Path, found: dict[str, Any]) -> None:
    import zoo
    from zoo.store.files import replacing

    created = datetime.now(UTC).isoformat(timespec="seconds")
    origin = {"zoo": zoo.__version__, "created": created, "command": sys.argv[1:]}
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as draft:
        draft.write_text(json.dumps({**found, **origin}, indent=1) + "\n", encoding="utf-8")


def _print(found: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("probe", "features", "accuracy", "95 %", "balanced"):
        table.add_column(column, justify="left" if column in ("probe", "features") else "right")
    for row in found["results"]:
        low, high = row["interval"]
        width = f"{row['features']}, {row['width']}" if "width" in row else row["features"]
        table.add_row(row["kind"], width, f"{row['accuracy']:.1%}", f"{low:.1%} - {high:.1%}", f"{row['balanced']:.1%}")
    table.add_row("chance", f"{len(found['classes'])} classes", f"{found['chance']:.1%}", "", "")
    table.add_row("most frequent", "", f"{found['majority']:.1%}", "", "")
    train, validation, test = (sum(found["counts"][part]) for part in ("train", "validation", "test"))
    console = Console(soft_wrap=True)
    console.print(table, highlight=False)
    console.print(f"learned from {train}, chosen on {validation}, tested on {test}; wrote {output}", highlight=False)
