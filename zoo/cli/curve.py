"""`zoo curve`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import find_items
from zoo.cli.options import (
    BatchSize,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    MaxSide,
    complain,
    open_tokenizer,
    token_counts,
)
from zoo.cli.sampling import Guidance, Sampling, Seed, Steps

if TYPE_CHECKING:
    from zoo.cli.rates import Entry, Row
    from zoo.data.chart import Line

__all__ = ["curve"]


class Across(StrEnum):
    """What the x axis counts."""

    bpp = "bpp"
    bits = "bits"
    tokens = "tokens"


class MetricName(StrEnum):
    """What the y axis measures."""

    psnr = "psnr"
    ssim = "ssim"
    lpips = "lpips"


LABELS = {"bpp": "bits per pixel", "bits": "bits per picture", "tokens": "tokens"}
COLUMNS = {"bpp": "bits_per_pixel", "bits": "bits", "tokens": "tokens"}
TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}


def curve(
    names: Annotated[list[str], typer.Argument(help="Names from `zoo list`, model folders, or hub ids org/name.")],
    data: Annotated[str, typer.Argument(help="A picture, a folder (searched recursively) or a quoted glob.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png file; .csv and .json go beside it.")],
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Token counts such as 1,8,64; without it powers of two, and all.")
    ] = None,
    across: Annotated[Across, typer.Option("--x", help="What the x axis counts.")] = Across.bpp,
    metric: Annotated[MetricName, typer.Option(help="What the y axis measures.")] = MetricName.psnr,
    baselines: Annotated[bool, typer.Option(help="Draw JPEG and WebP, at nine qualities each.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures, the first by their names.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    fit: FitOption = FitName.crop,
    max_side: MaxSide = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
) -> None:
    """Draw quality against rate: flexible tokenizers as curves, others as points, JPEG and WebP to compare with.

    Every number is a mean over the pictures. A tokenizer of one size sees them at that size, one of any size at the
    size of the first tokenizer that has one, else as they are. Files are counted with their headers.

    \b
    Examples:
      zoo curve onedpiece_tiny_128 photos/ -o curve.png
      zoo curve onedpiece_tiny_128 fsq_f8_tiny photos/ --x bits --metric ssim -o curve.png
      zoo curve onedpiece_s256 onedpiece_l256 photos/ --x tokens --tokens 8,16,32,64,128,256 -o curve.png
    """
    from zoo.cli.goal import require_lpips
    from zoo.cli.jobs import Job
    from zoo.cli.rates import Protocol, measure_all
    from zoo.data.chart import chart
    from zoo.data.images import IMAGE_SUFFIXES, write_image

    with complain():
        if output.suffix.lower() != ".png":
            raise ValueError(f"-o names a .png file, got {output}")
        items = find_items([data], IMAGE_SUFFIXES)[:limit]
        entries = _entries(list(dict.fromkeys(names)), tokens, device, across)
        sampling = Sampling(steps, guidance, seed)
        sampling.check(*(entry.tokenizer for entry in entries))
        if metric is MetricName.lpips:
            require_lpips()
    metrics = list(dict.fromkeys(("psnr", "ssim", metric.value)))
    protocol = Protocol(metrics, fit.value, max_side, baselines, dtype, sampling, batch_size)
    with Job("curve", len(items), output.parent / "errors.jsonl") as job:
        if rows := measure_all(job, items, entries, protocol):
            lines, label = _lines(rows, entries, across, metric)
            note = _note(rows, fit.value) + (
                "; numbers at points: tokens" if any(line.labels for line in lines) else ""
            )
            write_image(output, chart(lines, label, TITLES[metric], note, doubling=across is Across.tokens))
            _write(output, {"data": data, "fit": fit.value, "dtype": dtype.value}, rows)
            _print(rows, metrics, output)


def _entries(names: Sequence[str], tokens: str | None, device: str, across: Across) -> list[Entry]:
    """What is measured.

    Raises:
        ValueError: a tokenizer has no bits to count, or none can be cut to `--tokens`.
    """
    from zoo.cli.rates import Entry

    opened = [(name, open_tokenizer(name, device, modality="image")) for name in names]
    sizes = [(item.spec.input_shape[1], item.spec.input_shape[2]) for _, item in opened if not item.spec.any_size]
    entries = []
    for name, tokenizer in opened:
        spec = tokenizer.spec
        if spec.continuous and across is not Across.tokens:
            raise ValueError(f"{name} is continuous and has no bits; use --x tokens")
        shared = sizes[0] if sizes else None
        size = shared if spec.any_size else (spec.input_shape[1], spec.input_shape[2])
        counts: Sequence[int | None] = [None]
        if spec.flexible and tokens is not None:
            counts = sorted({min(count, spec.num_tokens) for count in token_counts(tokens)})
        elif spec.flexible:
            counts = [*(2**power for power in range((spec.num_tokens - 1).bit_length())), spec.num_tokens]
        entries.append(Entry(name.rstrip("/").split("/")[-1], tokenizer, size, counts))
    if tokens is not None and not any(entry.tokenizer.spec.flexible for entry in entries):
        raise ValueError("--tokens needs a model whose prefixes decode; `zoo info NAME` says which do")
    return entries


def _lines(rows: Sequence[Row], entries: Sequence[Entry], across: Across, metric: MetricName) -> tuple[list[Line], str]:
    """What the chart shows, and the label of its x axis.

    Files have no tokens. Where all tokenizers have tokens of as many bits, files are placed at so many tokens' bits.
    """
    from zoo.data.chart import Line

    label, column, models = LABELS[across], COLUMNS[across], {entry.name for entry in entries}
    rates = {entry.tokenizer.spec.bits_per_token for entry in entries}
    if across is Across.tokens and len(rates) == 1 and (rate := rates.pop()):
        label = f"tokens of {rate:.3g} bits"
        rows = [row if row["name"] in models else {**row, "tokens": row["bits"] / rate} for row in rows]
    furthest = 4 * max(row[column] for row in rows if row["name"] in models)
    several = len({entry.size for entry in entries}) > 1
    counted = sum(len(entry.counts) > 1 for entry in entries) == 1 and across is not Across.tokens
    lines = []
    for name, size in dict.fromkeys((row["name"], row["size"]) for row in rows):
        found = [row for row in rows if (row["name"], row["size"]) == (name, size) and column in row]
        if name in models:
            labels = [f"{row['tokens']:g}" for row in found] if counted and len(found) > 1 else []
            lines.append(Line(name, [(row[column], row[metric.value]) for row in found], labels=labels))
        elif near := [row for number, row in enumerate(found) if row[column] <= furthest or number < 3]:
            title = f"{name}, {size[0]} x {size[1]}" if several and size is not None else name
            lines.append(Line(title, [(row[column], row[metric.value]) for row in near], reference=True))
    return lines, label


def _note(rows: Sequence[Row], mode: str) -> str:
    sizes = dict.fromkeys("own size" if row["size"] is None else "{} x {}".format(*row["size"]) for row in rows)
    count = rows[0]["pictures"]
    how = "" if list(sizes) == ["own size"] else f" ({mode})"
    return f"{count} picture{'s' if count > 1 else ''}, {', '.join(sizes)}{how}"


def _write(output: Path, protocol: dict[str, Any], rows: Sequence[Row]) -> None:
    """The numbers, as CSV and as JSON."""
    import zoo
    from zoo.store.files import replacing

    with replacing(output.with_suffix(".json")) as draft:
        text = json.dumps({"version": zoo.__version__, **protocol, "points": list(rows)}, indent=1)
        draft.write_text(text + "\n", encoding="utf-8")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(output.with_suffix(".csv")) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            size = "" if row["size"] is None else "{}x{}".format(*row["size"])
            writer.writerow({**row, "size": size})


def _print(rows: Sequence[Row], metrics: Sequence[str], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "tokens or quality", "bits", "bits/pixel", *(name.upper() for name in metrics)):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        cost = (f"{row['bits']:,.0f}", f"{row['bits_per_pixel']:.4f}") if "bits" in row else ("", "")
        setting = f"{row['tokens']:,.4g}" if "tokens" in row else f"{row['setting']}"
        quality = [f"{row[name]:.2f}" if name == "psnr" else f"{row[name]:.4f}" for name in metrics]
        table.add_row(row["name"], setting, *cost, *quality)
    console = Console(soft_wrap=True)
    console.print(table, highlight=False)
    console.print(f"wrote {output}, and .csv and .json beside it", highlight=False)
