"""`evaluate`: tokenizers, a protocol and data become results."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoo.data.sources import Source, open_source
from zoo.evaluation.job import Job, Progress, Task, complete, fingerprint_of, origin_of, recorded, title_of
from zoo.evaluation.measures import Context
from zoo.evaluation.meters import Meters, speed_of
from zoo.evaluation.origin import digest_of_weights
from zoo.evaluation.outcome import Setting
from zoo.evaluation.passage import Passage
from zoo.evaluation.plan import asked_for, check_cuts, reference_of, resolve, settings_of, view_of
from zoo.evaluation.protocols import Protocol, default_protocol
from zoo.evaluation.protocols import protocol as find_protocol
from zoo.evaluation.ranks import World, joined, launch
from zoo.evaluation.reading import Item, digest_of, grouped, read_ahead
from zoo.evaluation.results import (
    RESULTS,
    DataRecord,
    Failure,
    Results,
    Run,
    SettingResult,
    read_results,
    write_errors,
    write_results,
)
from zoo.evaluation.samples import Samples
from zoo.evaluation.views.base import View
from zoo.store.load import load
from zoo.tokenizer import Tokenizer

__all__ = ["evaluate"]

log = logging.getLogger("zoo")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def evaluate(
    tokenizers: str | Sequence[str] | Mapping[str, Tokenizer],
    data: str | Path,
    *,
    protocol: str | Path | Protocol | None = None,
    size: int | None = None,
    metrics: Sequence[str] | None = None,
    tokens: Sequence[int] = (),
    codebooks: Sequence[int] = (),
    split: str = "validation",
    limit: int | None = None,
    reference: str | Path | None = None,
    weights: Mapping[str, str | Path] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    dtype: str = "float32",
    processes: int = 1,
    threads: int = 2,
    output: str | Path | None = None,
    samples: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str = "",
) -> Results:
    """Measure tokenizers on a set of data, under a protocol.

    An item that cannot be read, or comes back as NaN, is recorded in `Run.failed`, and the run goes on. Under
    `torchrun`, or with `processes`, items are shared out: none twice, none left out, the numbers of one process.

    Args:
        tokenizers: names from `zoo.list_models()`, model folders or hub ids; or tokenizers by names of your choice.
        data: a folder, tar shards, or a data set saved by `datasets`.
        protocol: a name, `NAME@SIZE`, a file, or a `Protocol`; None for the plain one of the modality.
        size: of pictures, in place of the protocol's.
        metrics: names of measures in place of the protocol's; options are the protocol's where it has some.
        tokens: counts that flexible codes are cut to; none for whole codes.
        codebooks: counts that residual codes are cut to; none for all.
        split: of a saved data set that has several.
        limit: only so many items, the first by their names.
        reference: statistics of a reference set (.npz), in place of the originals.
        weights: files of feature networks, by the networks' names.
        steps, guidance, seed: of decoders that paint in steps; None leaves them to the tokenizer.
        batch_size: items of equal shape that run together.
        device: of the tokenizers and feature networks; "cuda" gives every process a GPU.
        dtype: of encoders and decoders, by autocast.
        processes: on this machine; ignored where `torchrun` has started several.
        threads: that read ahead, in every process.
        output: folder of `results.json`, `errors.jsonl` and `samples/`; what it holds already is kept, and not measured
            again. None to write nothing.
        samples: items whose reconstructions are written.
        overwrite: measure again what the folder holds.
        progress: called with a tokenizer's name, items done, and all items.
        command: recorded.

    Returns:
        The runs of these tokenizers, in their order.

    Raises:
        KeyError: no tokenizer, protocol or measure of a name.
        FileNotFoundError, PermissionError, ConnectionError: weights or files cannot be had.
        ValueError: these tokenizers, data, protocol and options do not go together; the message says why.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name != "processes"}
    if processes > 1 and not torch.distributed.is_initialized():
        _check_devices(device, processes)
        return launch(processes, evaluate, options)
    named = [tokenizers] if isinstance(tokenizers, str) else tokenizers
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    if not named:
        raise ValueError("expected the name of at least one tokenizer")
    with joined(device) as world:
        opened = _open(named, world.device)
        tasks = _tasks(opened, protocol, size, metrics, tokens, codebooks)
        compared = reference_of(tasks[0].protocol, None if reference is None else Path(reference))
        source, record = _data(data, split, tasks, limit, compared, world, threads)
        job = Job(
            world=world,
            source=source,
            data=record,
            batch_size=batch_size,
            dtype=dtype,
            steps=steps,
            guidance=guidance,
            seed=seed,
            reference=None if reference is None else Path(reference),
            weights={name: Path(path) for name, path in (weights or {}).items()},
            output=None if output is None else Path(output),
            samples=samples,
            threads=threads,
            progress=progress,
            command=command,
        )
        return _run_all(job, tasks, overwrite)


def _check_devices(device: str, processes: int) -> None:
    """Raise ValueError unless every process can have a device."""
    if not device.startswith("cuda"):
        return
    if device != "cuda":
        raise ValueError(f"{processes} processes need a GPU each: give the device cuda, not {device}")
    if processes > torch.cuda.device_count():
        raise ValueError(f"{processes} processes need a GPU each, there are {torch.cuda.device_count()}")


def _open(named: Sequence[str] | Mapping[str, Tokenizer], device: str) -> dict[str, Tokenizer]:
    if isinstance(named, Mapping):
        return {name: tokenizer.eval().to(device) for name, tokenizer in named.items()}
    return {name.rstrip("/"): load(name, device=device) for name in dict.fromkeys(named)}


def _tasks(
    opened: Mapping[str, Tokenizer],
    protocol: str | Path | Protocol | None,
    size: int | None,
    metrics: Sequence[str] | None,
    tokens: Sequence[int],
    codebooks: Sequence[int],
) -> list[Task]:
    tokenizers = list(opened.values())
    check_cuts(tokenizers, tokens, codebooks)
    if protocol is None:
        found = default_protocol(tokenizers[0].spec.modality)
    else:
        found = protocol if isinstance(protocol, Protocol) else find_protocol(protocol)
    resolved = resolve(found if size is None else found.at(size), [item.spec for item in tokenizers])
    return [
        Task(name, item, own, asked_for(own, metrics), settings_of(item, tokens, codebooks))
        for (name, item), own in zip(opened.items(), resolved, strict=True)
    ]


def _data(
    data: str | Path,
    split: str,
    tasks: Sequence[Task],
    limit: int | None,
    compared: dict[str, Any],
    world: World,
    threads: int,
) -> tuple[Source, DataRecord]:
    kind = view_of(tasks[0].protocol.modality).kind
    try:
        source = open_source(data, split=split, kind=kind)
    except ValueError as error:
        text = str(error).replace("; set data.root to a folder that does", "").replace("data.root", "--data")
        raise ValueError(text.replace("data.split", "--split")) from error
    available = len(source.names)
    count = available if limit is None else min(limit, available)
    digest = digest_of(source, count, world, threads=threads)
    return source, DataRecord(str(data), kind.name, count, available, digest, compared)


def _run_all(job: Job, tasks: Sequence[Task], overwrite: bool) -> Results:
    """Measure what the folder does not hold yet, and write after every tokenizer."""
    held = Results()
    if job.output is not None and job.world.first and (job.output / RESULTS).is_file():
        held = read_results(job.output)
    held = job.world.told(held)
    runs = []
    for task in tasks:
        weights = digest_of_weights(task.tokenizer)
        fingerprint = fingerprint_of(job, task, weights)
        same = [run for run in held.runs if run.fingerprint == fingerprint]
        if job.world.told(bool(same) and not overwrite and complete(job, same[-1])):
            runs.append(same[-1])
            continue
        run = _measure(job, task, weights, fingerprint)
        held = held.with_run(run)
        runs.append(run)
        if job.output is not None and job.world.first:
            write_results(job.output, held)
            write_errors(job.output, held)
    return Results(runs)


def _measure(job: Job, task: Task, weights: str, fingerprint: str) -> Run:
    start = time.perf_counter()
    world, dtype = job.world, DTYPES[job.dtype]
    passage = Passage(task.tokenizer, dtype=dtype, steps=job.steps, guidance=job.guidance, seed=job.seed)
    needs = any(item.measure.surfaces for item in task.asked)
    protocol = task.protocol
    view = view_of(protocol.modality)(passage, protocol.view, surfaces=needs, seed=job.seed or 0)
    context = Context(
        spec=passage.spec,
        device=world.device,
        view=protocol.view,
        reference=job.reference,
        weights=job.weights,
        seed=job.seed or 0,
    )
    meters: dict[Setting, Meters] = {}
    missing: list[str] = []
    for setting in task.settings:
        meters[setting] = Meters(setting, task.asked, context, world, protocol.name, view.extent_unit, missing)
        missing = meters[setting].missing
    for item, why in zip(task.asked, missing, strict=True):
        if why and world.first:
            log.warning("%s: %s is not measured: %s", task.name, item.measure.name, why)
    samples = Samples(job.output, task.name, protocol.name, job.samples, world)
    failed = _feed(job, task, view, meters, samples)
    settings = []
    originals, files = samples.listed(task.settings)
    for setting, meter in meters.items():
        rate, numbers = meter.rate(), meter.numbers()
        decode = speed_of(passage.decoding[setting], world)
        settings.append(SettingResult(setting.tokens, setting.codebooks, rate, numbers, decode, files[setting]))
    return Run(
        model=task.name,
        title=title_of(task.name),
        modality=protocol.modality,
        spec=json.loads(json.dumps(passage.spec.to_dict())),
        weights=weights,
        protocol=recorded(protocol, view),
        data=job.data,
        origin=origin_of(job, time.perf_counter() - start),
        fingerprint=fingerprint,
        settings=settings,
        failed=_all_failed(job, failed, meters),
        originals=originals,
        encode=speed_of(passage.encoding, world),
    )


def _feed(
    job: Job, task: Task, view: View, meters: Mapping[Setting, Meters], samples: Samples
) -> list[tuple[int, Failure]]:
    """Send this process's items through the tokenizer and to all measures; what failed, with its place."""
    failed: list[tuple[int, Failure]] = []
    mine, done = job.world.mine(job.data.items), 0
    total = job.data.items

    def tell() -> None:
        if job.progress is not None and job.world.first:
            job.progress(task.name, min(done * job.world.size, total) if done < len(mine) else total, total)

    def readable() -> Iterator[Item]:
        nonlocal done
        reader = read_ahead(job.source, mine, view.read, ahead=4 * job.batch_size, threads=job.threads)
        for index, item in reader:
            if isinstance(item, Exception):
                failed.append((index, Failure(job.source.names[index], type(item).__name__, str(item))))
                done += 1
                tell()
            else:
                yield index, item

    tell()
    for group in grouped(readable(), view.shape, job.batch_size):
        failed += _pass(job, view, group, meters, samples)
        done += len(group)
        tell()
    return failed


def _pass(
    job: Job, view: View, group: Sequence[Item], meters: Mapping[Setting, Meters], samples: Samples, rest: bool = False
) -> Iterator[tuple[int, Failure]]:
    """A batch at all settings; when it fails as a whole, its items run one by one at those that are left.

    Args:
        rest: whether these are not all of the run's settings.
    """
    places = {job.source.names[index]: index for index, _ in group}
    left = dict(meters)
    outcomes = view.run([item for _, item in group], list(meters))
    while left:
        try:
            setting, outcome = next(outcomes)
        except Exception as error:
            if len(group) > 1:
                for single in group:
                    yield from _pass(job, view, [single], left, samples, rest or len(left) < len(meters))
                return
            index, name = group[0][0], job.source.names[group[0][0]]
            for where in [asdict(setting) for setting in left] if rest or len(left) < len(meters) else [None]:
                yield index, Failure(name, type(error).__name__, str(error), where)
            return
        del left[setting]
        samples.keep(view, setting, outcome, places)
        meters[setting].feed(outcome)


def _all_failed(job: Job, failed: Sequence[tuple[int, Failure]], meters: Mapping[Setting, Meters]) -> list[Failure]:
    """Of all processes, in the order of the items; all of them call it."""
    places = {name: index for index, name in enumerate(job.source.names)}
    mine = [*failed, *((places[item.name], item) for meter in meters.values() for item in meter.failed)]
    found = [item for share in job.world.gather(mine) for item in share]
    return [failure for _, failure in sorted(found, key=lambda item: item[0])]
