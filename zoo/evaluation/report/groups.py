"""Which numbers may stand in one table, and why others may not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from zoo.evaluation.results import Measured, Run, SettingResult

__all__ = ["Apart", "Cell", "Column", "Group", "Row", "apart", "group_runs", "share"]

SPREAD = "under the conventions in use, one and the same JPEG measured 1.3 dB PSNR and 0.11 SSIM apart"
NETWORK = ("network", "sha256", "digest", "weights")  # details that make another number of the same key
USE = ("dtype", "steps", "guidance", "seed")  # settings of a run that make another row of the same model


@dataclass(frozen=True, slots=True)
class Row:
    """A tokenizer used in one way.

    Attributes:
        model: what it is called here: its name, with what tells it from others of that name.
        setting: what of its code is kept, in words; "" for all.
        repeats: the same measured again, older ones; of their numbers only the spread is shown.
    """

    run: Run
    result: SettingResult
    model: str
    setting: str
    repeats: tuple[SettingResult, ...] = ()

    @property
    def name(self) -> str:
        """Model and setting."""
        return f"{self.model}, {self.setting}" if self.setting else self.model


@dataclass(frozen=True, slots=True)
class Column:
    """One number of a group.

    Attributes:
        key: as `Measured.key`.
        network: what computed it, in short; "" where nothing was learned.
        title: its heading.
        unit: such as "dB"; "" without.
        better: "higher", "lower" or None.
        samples: of the numbers that are compared.
    """

    key: str
    network: str
    title: str
    unit: str
    better: str | None
    samples: int

    @property
    def name(self) -> str:
        """The key without the protocol."""
        return self.key.partition("[")[0]

    @property
    def measure(self) -> str:
        """Which measure it is a number of."""
        return self.name.partition(".")[0]

    def means(self, name: str) -> bool:
        """Whether `name` is its key, its key without the protocol, or its measure."""
        return name in (self.key, self.name, self.measure)

    def holds(self, number: Measured) -> bool:
        """Whether a number belongs here."""
        return (number.key, _network(number.details)) == (self.key, self.network)


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in a table.

    Attributes:
        text: as shown; "" where there is none.
        value: that rows are sorted by; None where there is none.
        ranked: whether it is compared with others of its column.
        best: of its column.
        note: what must stand beside it: why it is missing, or of how many samples it is.
        spread: largest minus smallest of the repeats; None without any.
    """

    text: str
    value: float | None
    ranked: bool = False
    best: bool = False
    note: str = ""
    spread: float | None = None


@dataclass(slots=True)
class Group:
    """Rows that can be compared: one protocol, one set of data, one reference, nothing failed.

    Attributes:
        rows: in the order in which they are shown.
        columns: in the order of the protocol.
        title: the protocol, the data, and what tells it from other groups.

    With failed items a group holds one run, and ranks nothing.
    """

    rows: list[Row]
    columns: list[Column]
    title: str

    @property
    def run(self) -> Run:
        """The first; protocol, data and reference are those of all."""
        return self.rows[0].run

    @property
    def failed(self) -> int:
        """Items that failed."""
        return len(_failed(self.run))

    def number(self, row: Row, column: Column) -> Measured | None:
        """What was measured, None for nothing."""
        return next(filter(column.holds, row.result.numbers), None)

    def cell(self, row: Row, column: Column) -> Cell:
        """A number as it is shown."""
        found = self.number(row, column)
        if found is None:
            return Cell("", None, note="not measured")
        if found.value is None:
            return Cell("", None, note=found.why or "no value")
        ranked = self._ranks(found, column)
        whole = max(column.samples, row.run.data.items)
        note = "" if found.samples == whole else f"of {found.samples:,} of {whole:,} samples"
        best = ranked and found.value == self._best(column)
        values = [item.value for result in row.repeats for item in result.numbers if column.holds(item)]
        known = [value for value in (*values, found.value) if value is not None]
        spread = max(known) - min(known) if len(known) > 1 else None
        return Cell(f"{found.value:,.{found.digits}f}", found.value, ranked, best, note, spread)

    def sort(self, name: str | None) -> Column | None:
        """Order the rows by a number, best first.

        Args:
            name: of the number; for None, or one that is not here, the first that has a better side.

        Returns:
            The column, None where there is none.
        """
        choices = [column for column in self.columns if column.better]
        named = [column for column in choices if name is not None and column.means(name)]
        column = next(iter(named or choices), None)
        if column is None:
            return None
        sign = -1 if column.better == "higher" else 1

        def place(row: Row) -> tuple[bool, float]:
            cell = self.cell(row, column)
            return not cell.ranked, sign * cell.value if cell.value is not None else float("inf")

        self.rows = sorted(self.rows, key=place)  # `list.sort` would hide the rows from `cell`
        return column

    def _ranks(self, found: Measured, column: Column) -> bool:
        return found.value is not None and not self.failed and found.samples == column.samples

    def _best(self, column: Column) -> float | None:
        """The best of at least two numbers."""
        numbers = [self.number(row, column) for row in self.rows]
        values = [item.value for item in numbers if item is not None and self._ranks(item, column)]
        known = [value for value in values if value is not None]
        if len(known) < 2 or column.better is None:
            return None
        return max(known) if column.better == "higher" else min(known)


@dataclass(frozen=True, slots=True)
class Apart:
    """Two groups that look alike and are not compared.

    Attributes:
        first, second: their titles.
        keys: some numbers that both have.
        reasons: sentences.
    """

    first: str
    second: str
    keys: tuple[str, ...]
    reasons: tuple[str, ...]


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Runs in groups whose numbers can be compared; within one, what was measured twice is one row."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for number, run in enumerate(runs):
        found.setdefault((*_identity(run), number if _failed(run) else None), []).append(run)
    groups = []
    for members in found.values():
        rows = list(_rows(members))
        groups.append(Group(rows, _columns(rows), _title(rows[0].run)))
    _tell_apart(groups)
    return groups


def apart(groups: Sequence[Group]) -> list[Apart]:
    """Why groups are apart, for each two that hold a number of one name and differ in two respects at most."""
    found = []
    for one, other in combinations(groups, 2):
        a, b = one.run, other.run
        names = [name for name in _measured(one) if name in set(_measured(other))]
        reasons = list(_reasons(one, other))
        if a.modality != b.modality or not names or len(reasons) > 2:
            continue
        if a.modality == "image" and a.protocol.digest != b.protocol.digest and {"psnr", "ssim"} & set(names):
            reasons.append(SPREAD)
        keys = tuple(f"{name}[{run.protocol.name}]" for name in names[:1] for run in (a, b))
        found.append(Apart(one.title, other.title, tuple(dict.fromkeys(keys)), tuple(reasons)))
    return found


def _rows(runs: Sequence[Run]) -> Iterator[Row]:
    """One row for each way in which a tokenizer was used, the newest of those that are the same."""
    entries: dict[tuple[Any, ...], list[tuple[Run, SettingResult]]] = {}
    for run in runs:
        for result in run.settings:
            use = tuple(_plain(run.origin.settings.get(name)) for name in USE)
            entries.setdefault((run.weights, result.tokens, result.codebooks, use), []).append((run, result))
    names = Counter(run.model for run in {(run.model, run.weights): run for run in runs}.values())
    uses = {name: {(run.model, _plain(run.origin.settings.get(name))) for run in runs} for name in USE}
    for same in entries.values():
        same.sort(key=lambda item: item[0].origin.created, reverse=True)
        run, result = same[0]
        told = [
            f"{name} {run.origin.settings.get(name)}"
            for name in USE
            if sum(model == run.model for model, _ in uses[name]) > 1
        ]
        told += [f"weights {run.weights[:8]}"] if names[run.model] > 1 else []
        model = f"{run.model} ({', '.join(told)})" if told else run.model
        counts = ((result.tokens, "tokens"), (result.codebooks, "codebooks"))
        setting = ", ".join(_count(count, name) for count, name in counts if count is not None)
        yield Row(run, result, model, setting, tuple(older for _, older in same[1:]))


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Columns in the order in which numbers come, each of as many samples as most of them have."""
    found: dict[tuple[str, str], list[Measured]] = {}
    for row in rows:
        for number in row.result.numbers:
            found.setdefault((number.key, _network(number.details)), []).append(number)
    keys = Counter(key for key, _ in found)
    columns = []
    for (key, network), items in found.items():
        first = items[0]
        samples = Counter(item.samples for item in items if item.value is not None)
        most = max(samples, key=lambda count: (samples[count], count), default=0)
        title = f"{first.title} ({network})" if keys[key] > 1 and network else first.title
        columns.append(Column(key, network, title, first.unit, first.better, most))
    return columns


def _reasons(one: Group, other: Group) -> Iterator[str]:
    """Why two groups are apart, each respect in words."""
    a, b = one.run, other.run
    if a.protocol.digest != b.protocol.digest:
        yield f"another protocol: {_differences(a, b)}"
    if a.data.digest != b.data.digest:
        digests = f"digests {a.data.digest[:8]} and {b.data.digest[:8]}"
        if a.data.items != b.data.items:
            yield f"other samples: {share(a)} and {share(b)} ({digests})"
        else:
            yield f"other data: {a.data.path} and {b.data.path} ({digests})"
    if _plain(a.data.reference) != _plain(b.data.reference):
        yield f"another reference: {_reference(a)} instead of {_reference(b)}"
    for group in (one, other):
        if group.failed:
            yield f"{_count(group.failed, 'items')} of {group.run.data.items:,} failed for {group.run.model}"


def _differences(a: Run, b: Run) -> str:
    """What of two protocols differs: options of the view, else their digests."""
    first, second = a.protocol, b.protocol
    names = [name for name in {**first.view, **second.view} if first.view.get(name) != second.view.get(name)]
    parts = [f"{name} {_shown(first.view.get(name))} instead of {_shown(second.view.get(name))}" for name in names[:6]]
    told = "; ".join(parts) or f"options of its measures (digest {first.digest[:8]} instead of {second.digest[:8]})"
    return f"{first.name} and {second.name}: {told}" if first.name != second.name else f"{first.name}: {told}"


def _identity(run: Run) -> tuple[Any, ...]:
    """What runs must have in common to be compared."""
    data = run.data
    return run.protocol.digest, data.digest, _plain(data.reference), run.modality, data.items


def _title(run: Run) -> str:
    name = run.data.path.rstrip("/").rsplit("/", 1)[-1]
    broken = f"; {run.model}, incomplete" if _failed(run) else ""
    return f"{run.protocol.name} on {name}, {share(run)}{broken}"


def _tell_apart(groups: Sequence[Group]) -> None:
    """Give groups of the same title what they differ in."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(group.title, []).append(group)
    for same in alike.values():
        runs = [group.run for group in same]
        parts = [(run.protocol.digest[:8], run.data.digest[:8], f"against {_reference(run)}") for run in runs]
        differ = [place for place, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
        for group, part in zip(same, parts, strict=True):
            group.title += f" ({', '.join(part[place] for place in differ)})" if differ else ""


def share(run: Run) -> str:
    """How many of which items were measured."""
    data = run.data
    return (
        _count(data.items, data.kind)
        if data.items == data.available
        else f"{data.items:,} of {_count(data.available, data.kind)}"
    )


def _count(number: int, plural: str) -> str:
    return f"{number:,} {plural.removesuffix('s') if number == 1 else plural}"


def _reference(run: Run) -> str:
    reference = run.data.reference
    if reference.get("kind") != "statistics":
        return "the originals"
    return f"{reference.get('file', 'statistics')} ({str(reference.get('sha256', ''))[:8]})"


def _failed(run: Run) -> set[str]:
    return {failure.name for failure in run.failed}


def _measured(group: Group) -> list[str]:
    """Names of what was measured, without the protocol."""
    return list(dict.fromkeys(column.name for column in group.columns))


def _network(details: Mapping[str, Any]) -> str:
    """What computed a number, as its details say: names and the first digits of digests."""
    return " ".join(str(details[name])[:24] for name in NETWORK if details.get(name))


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
