"""From a request to a token folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from zoo.export.core import Export
from zoo.export.digest import weights_digest
from zoo.export.format import Layout, Manifest
from zoo.export.formats import find_format
from zoo.export.inputs import Inputs, open_inputs
from zoo.export.readers import Reader, open_reader
from zoo.export.request import Request
from zoo.export.work import Worker, default_workers
from zoo.spec import TokenizerSpec
from zoo.vocabulary import VocabularyLayout

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["open_worker", "plan_export", "run_export"]


def run_export(
    request: Request,
    folder: str | Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    done: Callable[[int, int], None] = lambda number, items: None,
) -> Manifest:
    """Do a whole export in this process, or go on with one that was interrupted.

    Args:
        request: what decides the result.
        folder: where it goes.
        device: of the tokenizer.
        workers: threads that decode files; None for one a processor.
        done: called with each shard's number and the items of its part, and with -1 and the items of each batch.

    Raises:
        ValueError, FileNotFoundError, ...: the request does not fit; see `zoo.load` and `open_inputs`.
    """
    from zoo.export.local import run_local

    return run_local(open_worker(request, folder, device=device, workers=workers), done)


def open_worker(
    request: Request,
    folder: str | Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Worker:
    """What a process needs to make shards: model, inputs and folder, opened and checked; arguments as `run_export`."""
    from zoo.store.load import load

    if tokenizer is None:
        tokenizer = load(request.model, device=device)
    inputs = open_inputs(request.data, tokenizer.spec.modality, request.split, request.shard_items)
    reader = open_reader(tokenizer, request)
    plan = plan_export(reader, inputs)
    export = Export(Path(folder).expanduser(), plan, [part.name for part in inputs.parts])
    return Worker(export, inputs, reader, workers or default_workers())


def plan_export(reader: Reader, inputs: Inputs) -> Manifest:
    """The manifest, but for what is only known when all shards are done.

    Raises:
        ValueError: the format cannot hold these tokens.
    """
    request, tokenizer = reader.request, reader.tokenizer
    layout, kind = reader.layout(), find_format(request.to)
    if not layout.codebook_sizes and request.to != "parquet":
        raise ValueError(f"{request.model} gives continuous latents, which only parquet holds; got --to {request.to}")
    if request.order != "flat" and not kind.streams:
        raise ValueError(f"--order is for streams of ids (megatron, bin); {request.to} keeps codes as (N, Q)")
    vocabulary = None
    if layout.codebook_sizes:
        spec = _kept(tokenizer.spec, layout, request)
        vocabulary = VocabularyLayout(request.text_vocab_size, {spec.modality: spec}, request.order)
    columns = {"id": "string", **layout.columns(), **inputs.columns}
    return Manifest(
        format=request.to,
        tokenizer=request.model,
        weights=weights_digest(tokenizer),
        spec=tokenizer.spec.to_dict(),
        layout=layout,
        order=request.order,
        vocabulary=None if vocabulary is None else vocabulary.to_dict(),
        dtype=layout.dtype if vocabulary is None or not kind.streams else kind.id_dtype(vocabulary.size),
        columns=columns,
        labels=inputs.labels,
        items=0,
        tokens=0,
        shards=(),
        failed=(),
        options={**request.options(), "inputs": inputs.digest},
        versions={"tokenizer-zoo": zoo.__version__, **{name: version(name) for name in ("torch", "numpy", "pillow")}},
    )


def _kept(spec: TokenizerSpec, layout: Layout, request: Request) -> TokenizerSpec:
    """The spec of codes after `--tokens` and `--codebooks`."""
    count = spec.num_tokens if request.tokens is None else min(spec.num_tokens, request.tokens)
    return replace(spec, codebook_sizes=layout.codebook_sizes, num_tokens=count, scales=layout.scales)
