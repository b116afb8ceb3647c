"""`zoo evaluate`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import BatchSize, Device, Dtype, DtypeName, complain, find_device, stop, token_counts
from zoo.cli.sampling import Guidance, Seed, Steps

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zoo.evaluation.results import Results, Run, SettingResult

__all__ = ["evaluate"]


def evaluate(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `zoo list`, model folders, or hub ids org/name.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="A folder, tar shards, or a saved Hugging Face data set.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for results.json and samples.")] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", "-p", help="From --list-protocols, NAME@SIZE, or a YAML file of yours.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Of pictures, in place of the protocol's.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="In place of the protocol's: psnr,ssim; or beside them: +lpips,+kid."),
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Cut flexible codes to such counts: 8,32,128.")] = None,
    codebooks: Annotated[
        str | None, typer.Option("--codebooks", help="Cut residual codes to such counts: 1,2,4.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of a saved data set that has several.")] = "validation",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items, the first by their names.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Statistics of a reference set (.npz), in place of the originals.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="File of a feature network: NAME=FILE. May be repeated.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    processes: Annotated[
        int, typer.Option(min=1, help="That share the items; with --device cuda each has a GPU. torchrun works too.")
    ] = 1,
    samples: Annotated[int, typer.Option(min=0, help="Reconstructions to write, the first by their names.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure again what the folder holds.")] = False,
    list_protocols: Annotated[bool, typer.Option("--list-protocols", help="Show what there is, and exit.")] = False,
    list_metrics: Annotated[bool, typer.Option("--list-metrics", help="Show what there is, and exit.")] = False,
) -> None:
    """Measure tokenizers under a named protocol, and keep with every number what it depends on.

    results.json has the numbers with protocol, digests of data and weights, versions, rates and speeds; report.html and
    report.md show them; errors.jsonl has the items that failed. A tokenizer that the folder holds already is not
    measured again unless anything differs that its numbers depend on.

    \b
    Examples:
      zoo evaluate fsq_f8_tiny onedpiece_tiny_128 --data photos/ -o measured/
      zoo evaluate onedpiece_tiny_128 --data photos/ --tokens 8,32,128 --metrics +lpips -o measured/
      zoo evaluate titok_l32_imagenet --data imagenet/val --protocol titok --processes 8 --device cuda -o measured/
      zoo evaluate onedpiece_tiny_128 --data photos/ --protocol titok@128 -o measured/
    """
    if list_protocols or list_metrics:
        _show_protocols() if list_protocols else None
        _show_metrics() if list_metrics else None
        return
    if not names or data is None or output is None:
        stop("expected names of tokenizers, --data and -o; `zoo evaluate --help` has examples")
        return
    bars = Bars()
    with complain():
        from zoo.evaluation import evaluate as measure
        from zoo.evaluation import read_results
        from zoo.evaluation.report import write_report
        from zoo.evaluation.results import ERRORS, RESULTS

        try:
            results = measure(
                names,
                data,
                protocol=protocol,
                size=size,
                metrics=None if metrics is None else [part.strip() for part in metrics.split(",") if part.strip()],
                tokens=[] if tokens is None else token_counts(tokens),
                codebooks=[] if codebooks is None else token_counts(codebooks, "--codebooks"),
                split=split,
                limit=limit,
                reference=reference,
                weights=_files(weights or []),
                steps=steps,
                guidance=guidance,
                seed=seed,
                batch_size=batch_size,
                device=find_device(device),
                dtype=dtype.value,
                processes=processes,
                output=output,
                samples=samples,
                overwrite=overwrite,
                progress=bars,
                command=shlex.join(["zoo", *sys.argv[1:]]),
            )
        except KeyboardInterrupt:
            stop(
                f"interrupted; tokenizers that were finished are kept in {output}, the same command goes on from there"
            )
        finally:
            bars.close()
    if os.environ.get("RANK", "0") == "0":  # torchrun starts this command several times
        _show(results)
        pages = write_report(read_results(output), output)
        _console().print("wrote", ", ".join(map(str, [output / RESULTS, *pages])), highlight=False, soft_wrap=True)
    if failed := sum(len(run.failed) for run in results.runs):
        _console(stderr=True).print(f"[bold red]{failed} failed[/], see {output / ERRORS}", highlight=False)
        raise typer.Exit(1)


class Bars:
    """A progress bar for each tokenizer, opened by the first news; can be sent to another process before."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        if self.progress is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.progress = Progress(*columns, console=_console(stderr=True))
            self.progress.start()
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self.progress is not None:
            self.progress.stop()


def _files(weights: Sequence[str]) -> dict[str, Path]:
    pairs = [item.partition("=") for item in weights]
    for name, sign, file in pairs:
        if not name or not sign or not Path(file).expanduser().is_file():
            raise ValueError(f"--weights expects NAME=FILE with a file that exists, got {name}{sign}{file}")
    return {name: Path(file).expanduser() for name, _, file in pairs}


def _show(results: Results) -> None:
    """For each protocol what was measured, a column for each tokenizer and setting, as many as fit side by side."""
    from rich.table import Table

    console = _console()
    for name in dict.fromkeys(run.protocol.name for run in results.runs):
        runs = [run for run in results.runs if run.protocol.name == name]
        columns = [(run, setting) for run in runs for setting in run.settings]
        numbers = {number.key: number for _, setting in columns for number in setting.numbers}
        labels = [_heading(number) for number in numbers.values()]
        unit = next((setting.rate.unit for _, setting in columns if setting.rate), "bit")
        width = max(len(cell) for run, setting in columns for cell in (run.model, _kept(setting))) + 2
        room = max(1, (console.width - max(map(len, [unit, *labels]))) // width)
        for start in range(0, len(columns), room):
            some = columns[start : start + room]
            table = Table(box=None, title_justify="left", pad_edge=False)
            table.add_column(f"[bold]{name}[/]\n{runs[0].data.items} {runs[0].data.kind}", no_wrap=True)
            for run, setting in some:
                table.add_column(f"{run.model}\n{_kept(setting)}", justify="right")
            table.add_row(unit, *(_rate(setting) for _, setting in some))
            for label, key in zip(labels, numbers, strict=True):
                found = [{number.key: number for number in setting.numbers}.get(key) for _, setting in some]
                table.add_row(label, *map(_cell, found))
            console.print(table, highlight=False)
            console.print()
        for why, measures in _missing(runs).items():
            console.print(f"{', '.join(measures)}: {why}", highlight=False, markup=False, soft_wrap=True)


def _missing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Reasons for absent values, each with the measures that it concerns."""
    found: dict[str, list[str]] = {}
    for number in (number for run in runs for setting in run.settings for number in setting.numbers):
        if number.value is None and number.measure not in found.setdefault(number.why, []):
            found[number.why].append(number.measure)
    return found


def _heading(number: Any) -> str:
    return f"{number.title}{f', {number.unit}' if number.unit and number.unit not in number.title else ''}"


def _cell(number: Any) -> str:
    return "" if number is None or number.value is None else f"{number.value:,.{number.digits}f}"


def _kept(setting: SettingResult) -> str:
    parts = [f"{count} {name}" for name in ("tokens", "codebooks") if (count := getattr(setting, name)) is not None]
    return ", ".join(parts) or "all"


def _rate(setting: SettingResult) -> str:
    return "" if setting.rate is None or setting.rate.value is None else f"{setting.rate.value:,.4g}"


def _show_protocols() -> None:
    from rich.table import Table

    from zoo.evaluation import list_protocols, protocol

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("protocol", "for", "what it is, its measures and its source"):
        table.add_column(title)
    with complain():
        for name in list_protocols():
            item = protocol(name)
            table.add_row(name, item.modality, f"{item.title}\n{', '.join(item.metrics)}\n[dim]{item.source}[/]\n")
    _console().print(table, highlight=False)


def _show_metrics() -> None:
    from rich.table import Table

    from zoo.evaluation.measures import MEASURES

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("metric", "for", "needs", "numbers"):
        table.add_column(title, no_wrap=title in ("metric", "needs"))
    for name, item in MEASURES.items():
        arrows = {"higher": " ↑", "lower": " ↓", None: ""}
        numbers = ", ".join(f"{number.title}{arrows[number.better]}" for number in item.numbers.values())
        extra = f"\\[{item.extra}]" if item.extra else ""
        table.add_row(name, ", ".join(item.modalities), extra, numbers)
    console = _console()
    console.print(table, highlight=False)
    console.print("An extra \\[NAME] is installed by: pip install 'tokenizer-zoo\\[NAME]'", highlight=False)


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=stderr)
