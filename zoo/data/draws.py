"""Items of a source drawn at random by (index, draw), with a substitute for what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from zoo.data.sampler import mix
from zoo.data.sources import Source

__all__ = ["Draws", "ErrorLog", "read_all"]

Item = TypeVar("Item")


class ErrorLog:
    """Counts unreadable items, and appends each once to a JSON-lines file when a path is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._seen: set[str] = set()

    def record(self, name: str, error: Exception) -> None:
        """Note that `name` could not be read."""
        if name in self._seen:
            return
        self._seen.add(name)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"item": name, "error": f"{type(error).__name__}: {error}"}) + "\n")

    @property
    def count(self) -> int:
        """Different items that failed: in the file, which all workers write, else in this process."""
        if self.path is None or not self.path.exists():
            return len(self._seen)
        with self.path.open() as file:
            return len({json.loads(line)["item"] for line in file})


class Draws(Dataset[Any]):
    """Samples of the items of a source; what a draw gives depends on (seed, draw) alone.

    Args:
        source: named items.
        indices: which of them belong to this set; one may stand there several times.
        seed: of every random choice.
        errors: where unreadable items are recorded. A draw that meets one takes the next readable item.
    """

    def __init__(self, source: Source, indices: Sequence[int], seed: int = 0, errors: ErrorLog | None = None) -> None:
        self.source, self.indices, self.seed = source, list(indices), seed
        self.errors = errors or ErrorLog()

    def __len__(self) -> int:
        return len(self.indices)

    def rng(self, *numbers: int) -> np.random.Generator:
        """Where the choices of a draw come from."""
        return np.random.default_rng(mix(self.seed, *numbers))

    def attempt(self, index: int, read: Callable[[int], Item]) -> Item | None:
        """What `read` makes of item `index`; None, and a record, where it cannot."""
        try:
            return read(index)
        except Exception as error:  # decoders raise anything on broken files, from OSError to struct.error
            self.errors.record(self.source.names[index], error)
            return None

    def first(self, position: int, take: Callable[[int, int], Item | None]) -> tuple[int, Item]:
        """The first item from `position` on of which `take(index, attempt)` makes something: its index, and that."""
        for attempt in range(len(self.indices)):
            index = self.indices[(position + attempt) % len(self.indices)]
            if (found := take(index, attempt)) is not None:
                return index, found
        name = self.source.names[self.indices[0]]
        raise ValueError(f"none of the {len(self.indices)} {self.source.kind.name} can be read; the first is {name!r}")


def read_all(indices: Iterable[int], read: Callable[[int], Item | None]) -> dict[int, Item]:
    """What `read` makes of each index, in threads; those of which it makes None are left out."""
    indices = list(dict.fromkeys(indices))
    with ThreadPoolExecutor() as pool:
        return {index: item for index, item in zip(indices, pool.map(read, indices), strict=True) if item is not None}
