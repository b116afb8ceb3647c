"""`zoo export`."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    BatchSize,
    Chunk,
    Codebooks,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    MaxSide,
    complain,
    find_device,
)

if TYPE_CHECKING:
    from zoo.export.format import Manifest
    from zoo.export.work import Worker

__all__ = ["export"]


class FormatName(StrEnum):
    """Formats of token folders."""

    parquet = "parquet"
    webdataset = "webdataset"
    litdata = "litdata"
    mds = "mds"
    megatron = "megatron"
    bin = "bin"


class EngineName(StrEnum):
    """What runs the shards."""

    local = "local"
    ray = "ray"


class StreamName(StrEnum):
    """Orders of codes in a stream of ids."""

    flat = "flat"
    scale_major = "scale_major"
    delay = "delay"
    frames = "frames"


def export(
    model: Annotated[str, typer.Argument(help="Name from `zoo list`, model folder, or hub id org/name.")],
    data: Annotated[
        str, typer.Option("--data", help="A folder, tar shards (a file, a folder, a quoted pattern), or hf:PATH.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the shards and manifest.json.")],
    to: Annotated[FormatName, typer.Option("--to", help="Format of the shards.")] = FormatName.parquet,
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set of several.")] = "train",
    shard_items: Annotated[
        int, typer.Option(min=1, help="Items of a shard; tar files are shards of their own.")
    ] = 4096,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="For codes from coarse to fine: keep the first so many tokens.")
    ] = None,
    codebooks: Codebooks = None,
    order: Annotated[
        StreamName, typer.Option(help="Of the codes in the streams of megatron and bin.")
    ] = StreamName.flat,
    text_vocab: Annotated[
        int, typer.Option(min=0, help="Ids that belong to text; in streams codes begin behind them.")
    ] = 0,
    fit: FitOption = FitName.crop,
    max_side: MaxSide = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="For tokenizers that take any size: make squares of pictures, by --fit.")
    ] = None,
    chunk: Chunk = 30.0,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode files; by default one a processor, at most 16.")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="This process (or torchrun's), or Ray Data.")] = EngineName.local,
    actors: Annotated[int, typer.Option(min=1, help="With --engine ray: tokenizers that run at once.")] = 1,
) -> None:
    """Turn a data set into tokens for training generators and language models.

    Every item keeps its name, class, caption and metadata; manifest.json says what the tokens are. `zoo.TokenDataset`
    reads every format back. Run the same command again after an interruption: it goes on, and the files are the same as
    if nothing had happened. Items that cannot be read are recorded in errors.jsonl.

    \b
    Examples:
      zoo export onedpiece_tiny_128 --data photos/ -o tokens/
      zoo export titok_l32_imagenet --data 'shards/train-*.tar' --to webdataset -o tokens/ -b 256 --device cuda
      zoo export rvq_tiny_24k --data speech/ --codebooks 4 --to megatron --order delay --text-vocab 50257 -o tokens/
      torchrun --nproc-per-node 8 --no-python zoo export titok_l32_imagenet --data hf:imagenet -o tokens/
      zoo export titok_l32_imagenet --data hf:imagenet -o tokens/ --engine ray --actors 8
    """
    from zoo.export.job import open_worker
    from zoo.export.local import run_local
    from zoo.export.request import Request

    with complain():
        chosen = _device(find_device(device))
        request = Request(
            model=model,
            data=data,
            to=to.value,
            split=split,
            shard_items=shard_items,
            batch_size=batch_size,
            dtype=dtype.value,
            tokens=tokens,
            codebooks=codebooks,
            order=order.value,
            text_vocab_size=text_vocab,
            fit=fit.value,
            max_side=max_side,
            size=size,
            chunk=chunk,
        )
        worker = open_worker(request, output, device="cpu" if engine is EngineName.ray else chosen, workers=workers)
        alone, first = "RANK" not in os.environ, os.environ.get("RANK", "0") == "0"
        with _Progress(worker, quiet=not first) as done:
            if engine is EngineName.ray:
                from zoo.export.ray_runner import run_ray

                manifest = run_ray(worker, chosen, actors=actors, done=done)
            else:
                manifest = run_local(worker, done)
    if first:
        _tell(manifest, output)
    if manifest.failed and alone:  # torchrun would take it for a crash, and kill the other processes
        raise typer.Exit(1)


class _Progress:
    """A bar over all items; with Ray it moves by the shard."""

    def __init__(self, worker: Worker, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("export"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=quiet)
        parts = [part.stop - part.start for part in worker.inputs.parts]
        recorded = range(len(parts)) if worker.export.done else worker.export.recorded()
        self.task = self.bar.add_task("", total=sum(parts), completed=sum(parts[number] for number in recorded))
        self.by_batch = False

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        return self.advance

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # items that failed, and those of other processes, are in no batch
            self.bar.update(self.task, completed=self.bar.tasks[0].total)
        self.bar.stop()

    def advance(self, number: int, items: int) -> None:
        """Count a batch (-1), or a shard where there are no batches to count."""
        self.by_batch |= number < 0
        if number < 0 or not self.by_batch:
            self.bar.advance(self.task, items)


def _device(device: str) -> str:
    """Each process of torchrun gets a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def _tell(manifest: Manifest, output: Path) -> None:
    from rich.console import Console

    shards = f"{len(manifest.shards)} shard{'' if len(manifest.shards) == 1 else 's'}"
    text = f"{manifest.items:,} items, {manifest.tokens:,} tokens in {shards} of {manifest.format}: {output}"
    if manifest.failed:
        text += f"; {len(manifest.failed):,} failed, see {output / 'errors.jsonl'}"
    Console(stderr=True, soft_wrap=True).print(text, highlight=False, markup=False)
