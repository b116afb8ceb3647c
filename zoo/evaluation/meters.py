"""The measures of one setting: fed with outcomes, they end as numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.evaluation.measures.base import Context, Measure, Number
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Clock
from zoo.evaluation.ranks import World
from zoo.evaluation.results import Failure, Measured, Rate, Speed
from zoo.metrics.recordings import RecordingMean

__all__ = ["Asked", "Meters", "speed_of"]

RATES = {"pixel": ("bit/pixel", 1.0), "second": ("kbit/s", 1000.0), "shape": ("bit", 1.0)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A measure with the options that a protocol gives it.

    Attributes:
        options: arguments of `Measure.build`, but for `levels`, to which pictures are brought for this measure alone.
    """

    measure: Measure
    options: Mapping[str, Any]


class Meters:
    """All measures at one setting, and what the codes cost.

    Args:
        asked: what is measured.
        context: for measures that are built.
        world: processes that measure together; all of them make the same meters.
        protocol: its name, for keys.
        extent_unit: of the view.
        missing: of another setting's meters: what could not be built there is not tried again.

    Attributes:
        failed: what could not be judged, by one measure or by all, in this process.
        missing: for each measure why it could not be built, "" for those that could.

    Raises:
        ValueError: a measure does not take the options that the protocol gives it.
    """

    def __init__(
        self,
        setting: Setting,
        asked: Sequence[Asked],
        context: Context,
        world: World,
        protocol: str,
        extent_unit: str,
        missing: Sequence[str] = (),
    ) -> None:
        self.setting, self.asked, self.world, self.protocol = setting, list(asked), world, protocol
        self.rate_unit, self.rate_scale = RATES[extent_unit]
        self.failed: list[Failure] = []
        self.metrics, self.missing = self._build(context, missing or [""] * len(self.asked))
        self.counts = [0] * len(self.asked)
        self.sums = torch.zeros(4, dtype=torch.float64)

    def feed(self, outcome: Outcome) -> None:
        """Give a batch to every measure; items whose output is not finite go to none."""
        finite = torch.isfinite(outcome.output).flatten(1).all(1).tolist()
        for name, fine in zip(outcome.names, finite, strict=True):
            if not fine:
                message = "the reconstruction holds NaN or infinity; try --dtype float32, or look at the weights"
                self._fail(name, "NonFinite", message)
        if not all(finite):
            outcome = outcome.select([row for row, fine in enumerate(finite) if fine])
        if len(outcome):
            self._count(outcome)
            for number in range(len(self.asked)):
                self._give(number, outcome)

    def rate(self) -> Rate | None:
        """Of all items of all processes; all of them call it."""
        items, tokens, bits, extent = torch.stack(self.world.gather(self.sums)).sum(0).tolist()
        if not items:
            return None
        known = not math.isnan(bits)
        return Rate(
            tokens=tokens / items,
            bits=bits / items if known else None,
            extent=extent / items,
            value=bits / extent / self.rate_scale if known else None,
            unit=self.rate_unit,
        )

    def numbers(self) -> list[Measured]:
        """Of all items of all processes; all of them call it."""
        found = [measured for number in range(len(self.asked)) for measured in self._compute(number)]
        return list({measured.key: measured for measured in found}.values())

    def _build(self, context: Context, missing: Sequence[str]) -> tuple[list[Metric | None], list[str]]:
        """Metrics, None where there is none, and why: the first process builds first, so that it alone downloads."""
        metrics: list[Metric | None] = [None] * len(self.asked)
        reasons = list(missing)
        for turn in (True, False):
            for number, item in enumerate(self.asked):
                if self.world.first == turn and not reasons[number]:
                    options = {key: value for key, value in item.options.items() if key != "levels"}
                    try:
                        metrics[number] = item.measure.build(context, **options).to(context.device)
                    except (TypeError, ValueError, RuntimeError, OSError, ImportError) as error:
                        if isinstance(error, TypeError) or "Unexpected keyword" in str(error):
                            raise ValueError(f"{item.measure.name} does not take {options}: {error}") from error
                        reasons[number] = str(error)
            said = zip(*self.world.gather(reasons), strict=True)
            reasons = [next(filter(None, several), "") for several in said]
        metrics = [None if why else metric for metric, why in zip(metrics, reasons, strict=True)]
        return metrics, reasons

    def _count(self, outcome: Outcome) -> None:
        tokens = outcome.tokens
        bits = math.nan if outcome.spec.continuous else float(tokens.bits().sum())
        values = (len(outcome), float(tokens.mask.sum()), bits, float(outcome.extent.sum()))
        self.sums += torch.tensor(values, dtype=torch.float64)

    def _give(self, number: int, outcome: Outcome) -> None:
        """To one measure; a batch that it refuses is given item by item."""
        metric, item = self.metrics[number], self.asked[number]
        if metric is None:
            return
        try:
            item.measure.feed(metric, _at_levels(outcome, item.options.get("levels")))
        except Exception as error:
            if len(outcome) == 1:
                self._fail(outcome.names[0], type(error).__name__, str(error), item.measure.name)
                return
            for row in range(len(outcome)):
                self._give(number, outcome.select([row]))
        else:
            self.counts[number] += len(outcome)

    def _compute(self, number: int) -> list[Measured]:
        item, metric = self.asked[number], self.metrics[number]
        samples, refused = sum(self.world.gather(self.counts[number])), self._refused(item.measure.name)
        why, values, details = self.missing[number], None, dict(item.options)
        skipped = dict.fromkeys(item.measure.numbers, 0)
        if metric is not None and samples:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                    values = metric.compute()
                    details |= item.measure.details(metric)
            except (ValueError, RuntimeError, ImportError) as error:
                why = str(error)
            skipped = self._skipped(metric, item.measure)
        elif metric is not None:
            why = "no item could be judged"
        columns = item.measure.numbers
        found: dict[str, tuple[Number, float | None]]
        if values is None:
            found = {"": (columns.get("", Number(item.measure.name, None)), None)}
        elif "" in columns:
            found = {"": (columns[""], float(values))}
        else:
            found = {key: (column, float(values[key])) for key, column in columns.items() if key in values}
        return [
            self._measured(item.measure.name, key, column, value, samples, skipped.get(key, 0), refused, details, why)
            for key, (column, value) in found.items()
        ]

    def _measured(
        self,
        measure: str,
        key: str,
        column: Number,
        value: float | None,
        samples: int,
        skipped: int,
        refused: int,
        details: dict[str, Any],
        why: str,
    ) -> Measured:
        if value is not None and not math.isfinite(value):
            why = "infinite" if math.isinf(value) else "not a number"
            value = None
        return Measured(
            key=f"{measure}{'.' if key else ''}{key}[{self.protocol}]",
            measure=measure,
            number=key,
            title=column.title,
            value=value,
            unit=column.unit,
            better=column.better,
            digits=column.digits,
            samples=samples - skipped,
            skipped=skipped + refused,
            details=_plain(details),
            why=why,
        )

    def _skipped(self, metric: Metric, measure: Measure) -> dict[str, int]:
        """Items of all processes for which a number is not defined; several channels make one item."""
        counts = torch.as_tensor(getattr(metric, "skipped", 0)).cpu()
        total = torch.stack(self.world.gather(counts)).sum(0)
        if isinstance(metric, RecordingMean):
            total = -(-total // max(self.world.gather(metric.channels)))
        each = total.expand(len(measure.numbers)).tolist()
        return dict(zip(measure.numbers, each, strict=True))

    def _refused(self, measure: str) -> int:
        return sum(self.world.gather(sum(failure.measure == measure for failure in self.failed)))

    def _fail(self, name: str, error: str, message: str, measure: str | None = None) -> None:
        self.failed.append(Failure(name, error, message, asdict(self.setting), measure))


def speed_of(clock: Clock, world: World) -> Speed | None:
    """Of one process on average; all of them call it."""
    items, extent, seconds = (
        sum(column) for column in zip(*world.gather((clock.items, clock.extent, clock.seconds)), strict=True)
    )
    return Speed(items / seconds, extent / seconds, seconds) if items and seconds else None


def _at_levels(outcome: Outcome, levels: str | None) -> Outcome:
    """Pictures brought to other levels than those of the view."""
    if levels is None:
        return outcome
    from zoo.evaluation.views.pictures import originals, reconstructions

    return replace(outcome, output=reconstructions(outcome.output, levels), target=originals(outcome.target, levels))


def _plain(value: Any) -> Any:
    """As JSON has it: paths as texts, tensors as numbers, what is not finite as text."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
