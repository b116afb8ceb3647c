"""`zoo reconstruct`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import Item, errors_beside, find_items, output_paths, suffixes, written_as
from zoo.cli.options import (
    Bandwidth,
    BatchSize,
    Bits,
    Channels,
    ChannelsName,
    Chunk,
    Codebooks,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    Format,
    Inputs,
    MaxSide,
    Model,
    Overwrite,
    QueryBatch,
    Resolution,
    Surfaces,
    Text,
    UpName,
    UpOption,
    complain,
    open_tokenizer,
    precision,
    token_counts,
    told,
)
from zoo.cli.sampling import Guidance, Sampling, Seed, Steps

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.cli.jobs import Job, Sample
    from zoo.cli.sounds import Plan
    from zoo.data.sheet import Panel
    from zoo.spec import TokenizerSpec

__all__ = ["reconstruct"]


def reconstruct(
    inputs: Inputs,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder, or a file for one input.")],
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
    channels: Channels = ChannelsName.mix,
    chunk: Chunk = 30.0,
    codebooks: Codebooks = None,
    bandwidth: Bandwidth = None,
    bits: Bits = 16,
    resolution: Resolution = 128,
    query_batch: QueryBatch = 65536,
    up: UpOption = UpName.y,
    file_format: Format = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every result as one JSON object a line.")] = False,
) -> None:
    """Send pictures, sounds or shapes through a tokenizer and back, and show both sides with quality and bits.

    A sound is written at its own rate, channels and length; both spectrograms stand side by side in a PNG beside it.
    SI-SDR compares the two files: codecs trained to sound alike, not to be alike, have low values.

    A shape becomes a closed mesh at its own place and size; both are shown from the front and the back in a PNG beside
    it. Chamfer distance (sum of both mean distances) and F-scores of 100 000 points each are those of shapes whose
    longest side is [-1, 1]; IoU is of volumes, with the share of points where an open mesh does not say what is inside.

    For pictures, PSNR compares what the tokenizer saw with what it gave back, at its own resolution, without added
    borders. With --target each picture gets a length of its own, found by bisection; one that no length satisfies keeps
    all tokens.

    \b
    Examples:
      zoo reconstruct photo.jpg -m fsq_f8_tiny -o demo/
      zoo reconstruct photos/ -m onedpiece_tiny_128 --tokens 8,32,128 -o demo/
      zoo reconstruct photos/ -m onedpiece_tiny_128 --target psnr=20 -o demo/
      zoo reconstruct photo.jpg -m flextok_tiny_128 --steps 4 --guidance 1.5 -o demo/
      zoo reconstruct photo.jpg -m titok_l32_imagenet -o side_by_side.png --fit pad
      zoo reconstruct speech.wav -m wavtokenizer_small_75 -o demo/
      zoo reconstruct music.flac -m encodec_24khz -o demo/music.flac --codebooks 8
      zoo reconstruct chair.obj -m vat_tiny -o chair.glb --resolution 256 --query-batch 20000
    """
    import torch

    from zoo.cli.goal import read_goal
    from zoo.cli.jobs import Job, load_samples, run_batches
    from zoo.cli.shapes import plan_shapes, send_through
    from zoo.cli.sounds import plan_sounds
    from zoo.data.audio import WRITABLE_AUDIO
    from zoo.data.images import WRITABLE, write_image
    from zoo.data.sheet import side_by_side
    from zoo.shapes.meshes import WRITABLE_MESHES

    with complain():
        tokenizer = open_tokenizer(model, device)
        modality = tokenizer.spec.modality
        kinds = {"audio": list(WRITABLE_AUDIO), "shape": list(WRITABLE_MESHES)}
        suffix, single = written_as(file_format, modality), kinds.get(modality, list(WRITABLE))
        items = find_items(inputs, suffixes(modality))
        targets = output_paths(items, output, suffix, single=single)
        if clash := {item.path.resolve() for item in items} & {target.resolve() for target in targets}:
            raise ValueError(f"{clash.pop()} is an input as well as an output; choose another folder with -o")
        if tokens is not None and target is not None:
            raise ValueError("--tokens names lengths and --target finds them; give one of the two")
        if text is not None and target is not None:
            raise ValueError("--target searches without a caption; leave --text out, or use --tokens")
        counts, goal, beside = _counts(tokens, tokenizer.spec), read_goal(target, tokenizer), told(tokenizer, text)
        sampling = Sampling(steps, guidance, seed)
        plan = plan_sounds(tokenizer, model, channels, chunk, codebooks, bandwidth, dtype, sampling)
        shapes = plan_shapes(tokenizer, model, dtype, Surfaces(resolution, query_batch, up), sampling)
        if not tokenizer.spec.decodes:
            raise ValueError(f"{model} only encodes, it gives nothing back; use `zoo tokenize`")
        sampling.check(tokenizer)
    pairs = list(zip(items, targets, strict=True))
    records: list[dict[str, Any]] = []
    with Job("reconstruct", len(items), errors_beside(output, single)) as job:

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

        if plan is not None:
            records += _sounds(job, plan, pairs, bits, overwrite)
        elif shapes is not None:
            records += send_through(shapes, pairs, counts, job, overwrite)
        else:
            samples = load_samples(job, tokenizer.spec, pairs, mode=fit.value, max_side=max_side, overwrite=overwrite)
            run_batches(job, samples, batch_size, work)
        if as_json:
            typer.echo("\n".join(json.dumps(record) for record in records))
        elif records:
            {"audio": _print_sounds, "shape": _print_shapes}.get(modality, _print_summary)(records)


def _sounds(
    job: Job, plan: Plan, pairs: Sequence[tuple[Item, Path]], bits: int, overwrite: bool
) -> Iterator[dict[str, Any]]:
    """Reconstruct sounds one after the other."""
    from zoo.cli.sounds import Tally, send_through

    tally = Tally()
    for item, target in pairs:
        if target.exists() and not overwrite:
            job.skip()
            continue
        with job.guard(item):
            yield send_through(plan, tally, item, target, bits)
    job.notes += tally.lines(plan.tokenizer)


def _counts(text: str | None, spec: TokenizerSpec) -> list[int | None]:
    """Prefix lengths to decode, [None] for the whole code."""
    if text is None:
        return [None]
    whole = list(accumulate(spec.scales)) if spec.order == "scales" else []
    if not spec.flexible and not whole:
        raise ValueError("--tokens needs a model whose prefixes decode; `zoo info NAME` says which do")
    counts = token_counts(text)
    if whole and not set(counts) <= set(whole):
        raise ValueError(f"--tokens takes whole scales, {', '.join(map(str, whole))} tokens, got {text}")
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


def _print_sounds(records: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("sound", "seconds", "tokens", "tokens/s", "kbit/s", "SI-SDR dB", "spectrograms"):
        table.add_column(column, justify="left" if column in ("sound", "spectrograms") else "right")
    for row in records:
        fidelity = "" if row["si_sdr"] is None else f"{row['si_sdr']:.2f}"
        rate = (f"{row['tokens_per_second']:,.1f}", f"{row.get('kbit_per_second', math.nan):.3g}".replace("nan", ""))
        table.add_row(
            row["output"], f"{row['seconds']:,.2f}", f"{row['tokens']:,}", *rate, fidelity, row["spectrograms"]
        )
    Console().print(table, highlight=False)


def _print_shapes(records: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("shape", overflow="fold")
    for column in ("tokens", "bytes", "triangles", "Chamfer", "F@0.02", "F@0.05", "IoU", "unclear"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in records:
        near = (f"{row['chamfer_sum']:.4f}", f"{row['f_score@0.02']:.3f}", f"{row['f_score@0.05']:.3f}")
        iou = "" if row.get("iou") is None else f"{row['iou']:.3f}"
        unclear = f"{row['ambiguous']:.1%}" if "ambiguous" in row else ""
        size = f"{row['bytes']:,}" if "bytes" in row else ""
        table.add_row(row["output"], f"{row['tokens']:,}", size, f"{row['triangles']:,}", *near, iou, unclear)
    Console().print(table, highlight=False)
