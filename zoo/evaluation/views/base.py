"""What every modality's view offers to the engine."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from zoo.data.sources import Kind
    from zoo.evaluation.outcome import Outcome, Setting
    from zoo.evaluation.passage import Passage

__all__ = ["View"]


class View(Protocol):
    """How a protocol reads items, sends them through a tokenizer and prepares both sides for measures.

    `read` and `shape` are called from several threads at once, everything else from one.

    Args:
        passage: the tokenizer, with the clock that times it.
        view: the node `view` of the protocol; keys that are not known are refused.
        surfaces: whether any measure reads `Outcome.surfaces`.
        seed: of whatever the view draws, such as points on surfaces.

    Raises:
        ValueError: the tokenizer cannot work as the protocol wants; the message says what can be done.

    Attributes:
        kind: which files of a data folder are items.
        extent_unit: what `Outcome.extent` counts: "pixel", "second" or "shape".
    """

    kind: ClassVar[Kind]
    extent_unit: ClassVar[str]

    def __init__(self, passage: Passage, view: Mapping[str, Any], *, surfaces: bool = False, seed: int = 0) -> None: ...

    def read(self, data: bytes, name: str) -> Any:
        """An item, which knows its name, from the bytes of a file, cut and resized as the protocol says.

        Raises:
            ValueError: the bytes are no such item; the message needs no name.
        """

    def shape(self, item: Any) -> Hashable:
        """Items of equal shape run in one batch."""

    def run(self, items: Sequence[Any], settings: Sequence[Setting]) -> Iterator[tuple[Setting, Outcome]]:
        """Encode items of equal shape once and decode them at every setting, in this order."""

    def sample(self, outcome: Outcome, index: int, stem: Path, *, original: bool) -> Path:
        """Write one reconstruction (or its original) for people to look at or listen to.

        Args:
            index: of the item in the outcome.
            stem: where to, without suffix; dots in its name belong to it.

        Returns:
            The file.
        """

    def describe(self) -> dict[str, Any]:
        """What was really done, as plain data: sizes, filters, levels, versions of the libraries that matter."""
