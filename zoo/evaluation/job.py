"""What all tokenizers of an evaluation share, what is one's own, and how both are recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from zoo.data.sources import Source
from zoo.evaluation.meters import Asked
from zoo.evaluation.origin import digest_of_facts, digest_of_file, machine, versions
from zoo.evaluation.outcome import Setting
from zoo.evaluation.protocols import Protocol
from zoo.evaluation.ranks import World
from zoo.evaluation.results import DataRecord, Origin, ProtocolRecord, Run
from zoo.evaluation.views.base import View
from zoo.store.cards import card, list_models
from zoo.tokenizer import Tokenizer

__all__ = ["Job", "Progress", "Task", "complete", "fingerprint_of", "origin_of", "recorded", "title_of"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What all tokenizers of a call share; fields as the arguments of `evaluate`."""

    world: World
    source: Source
    data: DataRecord
    batch_size: int
    dtype: str
    steps: int | None
    guidance: float | None
    seed: int | None
    reference: Path | None
    weights: dict[str, Path]
    output: Path | None
    samples: int
    threads: int
    progress: Progress | None
    command: str


@dataclass(frozen=True, slots=True)
class Task:
    """One tokenizer of a call.

    Attributes:
        protocol: resolved for it.
        asked: what is measured.
        settings: how it is used.
    """

    name: str
    tokenizer: Tokenizer
    protocol: Protocol
    asked: list[Asked]
    settings: list[Setting]


def fingerprint_of(job: Job, task: Task, weights: str) -> str:
    """Of all that decides the numbers of a run, and of the files beside them."""
    protocol, options = task.protocol, ("dtype", "steps", "guidance", "seed", "samples")
    facts = {
        "model": task.name,
        "weights": weights,
        "protocol": [protocol.name, protocol.digest],
        "data": asdict(job.data),
        "settings": [asdict(setting) for setting in task.settings],
        "measures": [[item.measure.name, item.options] for item in task.asked],
        "networks": {name: digest_of_file(path) for name, path in sorted(job.weights.items())},
        "versions": versions(),
        **{name: getattr(job, name) for name in options},
    }
    return digest_of_facts(facts)


def complete(job: Job, run: Run) -> bool:
    """Whether nothing is missing that another try could bring: files of the folder, or networks that could be had."""
    if any(number.value is None and not number.samples for setting in run.settings for number in setting.numbers):
        return False
    if job.output is None:
        return True
    files = [*run.originals, *(file for setting in run.settings for file in setting.samples)]
    return all((job.output / file).is_file() for file in files)


def recorded(protocol: Protocol, view: View) -> ProtocolRecord:
    facts = {name: getattr(protocol, name) for name in ("name", "digest", "title", "source", "published", "samples")}
    return ProtocolRecord(**facts, view=view.describe())


def origin_of(job: Job, seconds: float) -> Origin:
    options = {name: getattr(job, name) for name in ("dtype", "steps", "guidance", "seed", "batch_size")}
    return Origin(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=job.command,
        seconds=round(seconds, 3),
        machine=machine(job.world.device),
        versions=versions(),
        settings={
            "device": job.world.device,
            "processes": job.world.size,
            "threads": torch.get_num_threads(),
            **options,
        },
    )


def title_of(name: str) -> str:
    return card(name).title if name in list_models() else name
