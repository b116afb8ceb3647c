"""`zoo reconstruct`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import errors_beside, find_items, output_paths
from zoo.cli.options import (
    BatchSize,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    Inputs,
    MaxSide,
    Model,
    Overwrite,
    Text,
    complain,
    open_tokenizer,
    precision,
    token_counts,
    told,
)
from zoo.cli.sampling import Guidance, Sampling, Seed, Steps

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.cli.jobs import Sample
    from zoo.data.sheet import Panel
    from zoo.spec import TokenizerSpec

__all__ = ["reconstruct"]


def reconstruct(
    inputs: Inputs,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder, or an image file for one input.")],
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Token counts such as 4,16,64; for models whose prefixes decode.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Fewest tokens that reach psnr=24, ssim=0.7, lpips=0.3; or most for bits=512, bpp=0.1."
        ),
    ] = None,
    text: Text = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    fit: FitOption = FitName.crop,
    max_side: MaxSide = None,
    image_format: Annotated[str, typer.Option("--format", help="png, jpg or webp, for outputs in a folder.")] = "png",
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every result as one JSON object a line.")] = False,
) -> None:
    """Send pictures through a tokenizer and back, and show both sides with PSNR and bits underneath.

    PSNR compares what the tokenizer saw with what it gave back, at its own resolution, without added borders. With
    --target each picture gets a length of its own, found by bisection; one that no length satisfies keeps all tokens.

    \b
    Examples:
      zoo reconstruct photo.jpg -m fsq_f8_tiny -o demo/
      zoo reconstruct photos/ -m onedpiece_tiny_128 --tokens 8,32,128 -o demo/
      zoo reconstruct photos/ -m onedpiece_tiny_128 --target psnr=20 -o demo/
      zoo reconstruct photo.jpg -m flextok_tiny_128 --steps 4 --guidance 1.5 -o demo/
      zoo reconstruct photo.jpg -m titok_l32_imagenet -o side_by_side.png --fit pad
    """
    import torch

    from zoo.cli.goal import read_goal
    from zoo.cli.jobs import Job, load_samples, run_batches
    from zoo.data.images import IMAGE_SUFFIXES, WRITABLE, write_image
    from zoo.data.sheet import side_by_side

    suffix = f".{image_format.lower().lstrip('.')}"
    with complain():
        if suffix not in WRITABLE:
            raise ValueError(f"--format is one of {', '.join(kind[1:] for kind in WRITABLE)}, got {image_format!r}")
        items = find_items(inputs, IMAGE_SUFFIXES)
        targets = output_paths(items, output, suffix, single=list(WRITABLE))
        if clash := {item.path.resolve() for item in items} & {target.resolve() for target in targets}:
            raise ValueError(f"{clash.pop()} is an input as well as an output; choose another folder with -o")
        tokenizer = open_tokenizer(model, device, modality="image")
        if tokens is not None and target is not None:
            raise ValueError("--tokens names lengths and --target finds them; give one of the two")
        if text is not None and target is not None:
            raise ValueError("--target searches without a caption; leave --text out, or use --tokens")
        counts, goal, beside = _counts(tokens, tokenizer.spec), read_goal(target, tokenizer), told(tokenizer, text)
        sampling = Sampling(steps, guidance, seed)
        sampling.check(tokenizer)
    records: list[dict[str, Any]] = []
    with Job("reconstruct", len(items), errors_beside(output, list(WRITABLE))) as job:

        def work(batch: Tensor, samples: Sequence[Sample]) -> None:
            with torch.inference_mode(), precision(tokenizer, dtype):
                code = tokenizer.encode(batch.to(tokenizer.device), **beside)
                found = None if goal is None else goal.cut(tokenizer, code, samples, sampling)
                codes = [code if count is None else code.keep(count) for count in counts]
                codes = codes if found is None else [found.tokens]
                outputs = [
                    tokenizer.decode(part, **sampling.options(tokenizer), **beside).float().cpu() for part in codes
                ]
            bits = [None if tokenizer.spec.continuous else part.bits() for part in codes]
            for number, sample in enumerate(samples):
                with job.guard(sample.item):
                    rows = [
                        _measure(
                            sample,
                            result[number],
                            int(part.mask[number].sum()),
                            None if cost is None else float(cost[number]),
                        )
                        for result, part, cost in zip(outputs, codes, bits, strict=True)
                    ]
                    if goal is not None and found is not None:
                        rows[0] |= {"target": str(goal), "reached": bool(found.reached[number])}
                        if goal.kind in ("ssim", "lpips"):
                            rows[0][goal.kind] = round(float(found.value[number]), 4)
                    pictures = [result[number] for result in outputs]
                    sheet = side_by_side(_panels(model, sample, pictures, rows))
                    write_image(sample.target, sheet)
                    records.extend(
                        {"input": str(sample.item.path), "output": str(sample.target), **row} for row in rows
                    )

        pairs = zip(items, targets, strict=True)
        samples = load_samples(job, tokenizer.spec, pairs, mode=fit.value, max_side=max_side, overwrite=overwrite)
        run_batches(job, samples, batch_size, work)
        if as_json:
            typer.echo("\n".join(json.dumps(record) for record in records))
        elif records:
            _print_summary(records)


def _counts(text: str | None, spec: TokenizerSpec) -> list[int | None]:
    """Prefix lengths to decode, [None] for the whole code."""
    if text is None:
        return [None]
    if not spec.flexible:
        raise ValueError("--tokens needs a model whose prefixes decode; `zoo info NAME` says which do")
    counts = token_counts(text)
    if not spec.any_size and max(counts) > spec.num_tokens:
        raise ValueError(f"--tokens must lie in 1 to {spec.num_tokens}, got {text}")
    return list(counts)


def _measure(sample: Sample, output: Tensor, count: int, bits: float | None) -> dict[str, Any]:
    """PSNR and cost of one reconstruction."""
    from zoo.metrics import psnr

    seen, given = sample.fit.trim(sample.image), sample.fit.trim(output)
    pixels = seen.shape[1] * seen.shape[2]
    record: dict[str, Any] = {"tokens": count, "psnr": round(float(psnr(given[None], seen[None])), 4)}
    if bits is not None:
        record |= {"bits": round(bits, 2), "bits_per_pixel": round(bits / pixels, 6)}
    return record


def _panels(model: str, sample: Sample, outputs: Sequence[Tensor], rows: Sequence[dict[str, Any]]) -> list[Panel]:
    from zoo.data.sheet import Panel

    seen = sample.fit.trim(sample.image)
    panels = [Panel(seen, sample.item.path.name, [f"{seen.shape[2]} x {seen.shape[1]} pixels"])]
    for output, row in zip(outputs, rows, strict=True):
        lines = [f"PSNR {row['psnr']:.2f} dB"]
        if "bits" in row:
            lines.append(f"{row['bits']:,.0f} bits, {row['bits_per_pixel']:.3f} bits/pixel")
        lines += [f"{kind.upper()} {row[kind]:.3f}" for kind in ("ssim", "lpips") if kind in row]
        if "target" in row:
            lines.append(f"target {row['target']}" + ("" if row["reached"] else " missed"))
        title = f"{row['tokens']:,} tokens"
        panels.append(Panel(sample.fit.trim(output), f"{model.rstrip('/').split('/')[-1]}: {title}", lines))
    return panels


def _print_summary(records: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    target = ("target",) if any("target" in row for row in records) else ()
    for column in ("picture", "tokens", "PSNR dB", "bits", "bits/pixel", *target):
        table.add_column(column, justify="left" if column == "picture" else "right")
    for row in records:
        bits = (f"{row['bits']:,.0f}", f"{row['bits_per_pixel']:.3f}") if "bits" in row else ("", "")
        reached = ("reached" if row["reached"] else "missed",) if target else ()
        table.add_row(row["output"], f"{row['tokens']:,}", f"{row['psnr']:.2f}", *bits, *reached)
    Console().print(table, highlight=False)
