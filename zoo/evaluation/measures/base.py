"""What a protocol can ask for by name: a metric, how it is fed, and what its numbers are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torchmetrics import Metric

    from zoo.evaluation.outcome import Outcome
    from zoo.spec import TokenizerSpec

__all__ = ["Context", "Measure", "Number"]

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Number:
    """One column of a table.

    Attributes:
        title: its heading.
        better: which values are; None where neither is.
        unit: such as "dB"; "" without.
        digits: behind the point.
    """

    title: str
    better: Better | None
    unit: str = ""
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Context:
    """What a measure may need to know before it sees an item.

    Attributes:
        spec: of the tokenizer.
        device: where features are computed.
        view: of the protocol: how items are prepared.
        reference: statistics to compare with instead of the originals (`--reference`).
        weights: files of feature networks that were given by hand, by the network's name (`--weights NAME=FILE`).
        seed: of whatever is drawn.
    """

    spec: TokenizerSpec
    device: str = "cpu"
    view: Mapping[str, Any] = field(default_factory=dict)
    reference: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric under the name that protocols and `--metrics` use.

    Attributes:
        name: lower case, such as "psnr".
        modalities: of the tokenizers that it is for.
        numbers: by the key that `Metric.compute` gives them; "" for a metric that gives one number. In results a
            number is called `name` or `name.key`.
        build: makes the metric from a `Context` and the protocol's options; raises ValueError, RuntimeError or
            ModuleNotFoundError with what to do when it cannot be had.
        feed: gives a batch to the metric.
        details: what else belongs beside the number as plain data, such as the network and its digest.
        surfaces: whether it reads `Outcome.surfaces`.
        extra: of tokenizer-zoo that brings the packages it needs; "" where the core has them.
    """

    name: str
    modalities: tuple[str, ...]
    numbers: Mapping[str, Number]
    build: Callable[..., Metric]
    feed: Callable[[Any, Outcome], None]
    details: Callable[[Any], dict[str, Any]] = lambda metric: {}
    surfaces: bool = False
    extra: str = ""
