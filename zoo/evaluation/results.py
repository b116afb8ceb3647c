"""What an evaluation leaves behind: `results.json`, every number with all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from zoo.store.files import replacing

__all__ = [
    "ERRORS",
    "FORMAT",
    "RESULTS",
    "DataRecord",
    "Failure",
    "Measured",
    "Origin",
    "ProtocolRecord",
    "Rate",
    "Results",
    "Run",
    "SettingResult",
    "Speed",
    "read_results",
    "write_errors",
    "write_results",
]

FORMAT = 1
RESULTS = "results.json"
ERRORS = "errors.jsonl"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One number.

    Attributes:
        key: `measure[.number][protocol]`, such as `psnr[titok]`: only equal keys can be compared.
        measure: its name, a key of `zoo.evaluation.measures.MEASURES`.
        number: which of the measure's numbers; "" for the only one.
        title: heading of its column.
        value: None where there is none; `why` says so.
        unit: such as "dB"; "" without.
        better: "higher", "lower", or None where neither is.
        digits: behind the point, for tables.
        samples: items that it was computed from.
        skipped: items that the measure could not judge, which are not among the samples.
        details: the measure's options, networks with their digests, and what else it says of itself.
        why: there is no value.
    """

    key: str
    measure: str
    number: str
    title: str
    value: float | None
    unit: str
    better: str | None
    digits: int
    samples: int
    skipped: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """What codes cost, without entropy coding.

    Attributes:
        tokens: positions of an item, on average.
        bits: of an item, on average; None for continuous latents.
        extent: of an item on average, in `unit` of the run's data: pixels, seconds, or 1 for a shape.
        value: bits of all items over the extent of all items, in `unit`; None for continuous latents.
        unit: "bit/pixel", "kbit/s" or "bit".
    """

    tokens: float
    bits: float | None
    extent: float
    value: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one process, without reading and without measures; the first batch of several is left out.

    Attributes:
        items_per_second: of the tokenizer's encoder or decoder.
        extent_per_second: pixels or seconds of sound in a second.
        seconds: that were timed.
    """

    items_per_second: float
    extent_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SettingResult:
    """A tokenizer used in one way: a row of a table.

    Attributes:
        tokens, codebooks: that were kept; None for all.
        rate: what codes cost; None if every item failed.
        numbers: what was measured.
        decode: speed of the decoder; None if every item failed.
        samples: files of reconstructions, relative to the results' folder, in the order of `Run.originals`.
    """

    tokens: int | None
    codebooks: int | None
    rate: Rate | None
    numbers: list[Measured]
    decode: Speed | None = None
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that is in no number, or not in all.

    Attributes:
        name: of the item.
        error: class of the error.
        message: what went wrong.
        setting: where only one setting is concerned, its tokens and codebooks; None for all.
        measure: where only one measure is concerned, its name.
    """

    name: str
    error: str
    message: str
    setting: dict[str, int | None] | None = None
    measure: str | None = None


@dataclass(frozen=True, slots=True)
class ProtocolRecord:
    """The protocol, as it was used.

    Attributes:
        name: such as "titok", or "titok@128" with another size.
        digest: sha256 of all that changes numbers.
        title, source, published: of the protocol's file.
        samples: of the published numbers.
        view: how items were prepared, with the versions of what did it.
    """

    name: str
    digest: str
    title: str
    source: str
    published: str
    samples: int | None
    view: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What was measured on.

    Attributes:
        path: as it was given.
        kind: of the items, such as "images".
        items: that were used.
        available: that are there; more than `items` after `--limit`.
        digest: sha256 over names and contents of the items that were used, in order.
        reference: {"kind": "paired"}, or {"kind": "statistics", "file": ..., "sha256": ...}.
    """

    path: str
    kind: str
    items: int
    available: int
    digest: str
    reference: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """When, where and by what a run was made.

    Attributes:
        created: ISO 8601, UTC.
        command: as it was typed; "" for a call of the library.
        seconds: from the first item to the last number.
        machine: system, processor, devices.
        versions: of tokenizer-zoo and the packages that matter.
        settings: device, dtype, threads, processes, batch size, steps, guidance, seed.
    """

    created: str
    command: str
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One tokenizer under one protocol on one set of data.

    Attributes:
        model: its name.
        title: of its card; the name where there is none.
        modality: "image", "audio" or "shape".
        spec: `TokenizerSpec.to_dict()`.
        weights: sha256 over its parameters and buffers.
        fingerprint: of all that decides the numbers: a run is only made again when this differs.
        failed: items that are not in all numbers. With any, numbers do not compare with those of a complete run.
        originals: files of the originals of `SettingResult.samples`.
        encode: speed of the encoder.
    """

    model: str
    title: str
    modality: str
    spec: dict[str, Any]
    weights: str
    protocol: ProtocolRecord
    data: DataRecord
    origin: Origin
    fingerprint: str
    settings: list[SettingResult]
    failed: list[Failure] = field(default_factory=list)
    originals: list[str] = field(default_factory=list)
    encode: Speed | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """All runs of a folder.

    Attributes:
        runs: in the order in which they were measured.
    """

    runs: list[Run] = field(default_factory=list)

    def with_run(self, run: Run) -> Results:
        """With one more run, in place of an older one of the same model and protocol on the same data path."""

        def place(item: Run) -> tuple[str, str, str]:
            return item.model, item.protocol.name, item.data.path

        return replace(self, runs=[old for old in self.runs if place(old) != place(run)] + [run])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in `results.json`."""
        return {"format": FORMAT, "runs": [asdict(run) for run in self.runs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Results:
        """What `to_dict` gave.

        Raises:
            ValueError: something else.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"expected results of format {FORMAT}, got {found!r}; measure again with `zoo evaluate`")
        try:
            return cls([_run(run) for run in data["runs"]])
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no results of `zoo evaluate`: {error}") from error


def write_results(folder: str | Path, results: Results) -> Path:
    """Write `results.json` in a folder; an older one is replaced in one step."""
    path = Path(folder) / RESULTS
    with replacing(path) as draft:
        text = json.dumps(results.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
    return path


def write_errors(folder: str | Path, results: Results) -> None:
    """Write `errors.jsonl` in a folder, a line for each failure of all runs; no file where there is none."""
    path = Path(folder) / ERRORS
    lines = [
        {"model": run.model, "protocol": run.protocol.name, "input": failure.pop("name"), **failure}
        for run in results.runs
        for failure in map(asdict, run.failed)
    ]
    if not lines:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as draft:
        draft.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_results(path: str | Path) -> Results:
    """Read `results.json`, or that of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or something else.
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no results at {file}; `zoo evaluate ... -o {file.parent}` makes them")
    try:
        return Results.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _run(data: Mapping[str, Any]) -> Run:
    parts: dict[str, Any] = {
        "protocol": _plain(ProtocolRecord, data["protocol"]),
        "data": _plain(DataRecord, data["data"]),
        "origin": _plain(Origin, data["origin"]),
        "settings": [_setting(item) for item in data["settings"]],
        "failed": _each(Failure, data["failed"]),
        "encode": _optional(Speed, data["encode"]),
    }
    return _plain(Run, {**data, **parts})


def _setting(data: Mapping[str, Any]) -> SettingResult:
    parts = {
        "rate": _optional(Rate, data["rate"]),
        "numbers": _each(Measured, data["numbers"]),
        "decode": _optional(Speed, data["decode"]),
    }
    return _plain(SettingResult, {**data, **parts})


def _plain(kind: type[T], data: Mapping[str, Any]) -> T:
    """A dataclass from its fields; those of a later version are left out."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in data.items() if name in names})


def _optional(kind: type[T], data: Mapping[str, Any] | None) -> T | None:
    return None if data is None else _plain(kind, data)


def _each(kind: type[T], data: Iterable[Mapping[str, Any]]) -> list[T]:
    return [_plain(kind, item) for item in data]
