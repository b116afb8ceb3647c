"""What a format of token folders does."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from zoo.export.format import Columns, Manifest, Row, Shard, code_dtype

__all__ = ["Format", "Rows", "pack", "plain", "unpack"]


class Rows(Protocol):
    """The rows of one shard, read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        """Row `index`, counted from 0."""
        ...


class Format(ABC):
    """How rows become files and come back. Equal rows give equal bytes.

    Args:
        manifest: of the folder; its `shards` may still be missing.

    Attributes:
        name: as `--to` takes it.
        streams: whether it holds ids of a vocabulary in place of codes.
        package: what writing and reading needs beside the core.
    """

    name: ClassVar[str]
    streams: ClassVar[bool] = False
    package: ClassVar[str | None] = None

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @classmethod
    def id_dtype(cls, size: int) -> str:
        """Of ids in [0, size), where it holds a stream of them."""
        return code_dtype(size)

    def check(self, row: Row) -> None:  # noqa: B027 - most formats take every row
        """Raise ValueError unless the format can hold a row."""

    @abstractmethod
    def names(self, number: int) -> tuple[str, ...]:
        """The files of shard `number`."""

    @abstractmethod
    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        """Write a shard's files; `paths` has one for each of `names`."""

    def finish(self, folder: Path, shards: Sequence[Shard]) -> tuple[Shard, ...]:
        """What is left to do when all shards are there, such as an index; the shards as the manifest lists them.

        It may be done again after an interruption, and gives the same.
        """
        return tuple(shards)

    def clean(self, folder: Path, count: int) -> None:  # noqa: B027 - most formats leave nothing behind
        """Remove what is no longer needed of `count` shards once the manifest is written."""

    @abstractmethod
    def open(self, folder: Path, shard: Shard) -> Rows:
        """The rows of a shard."""


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def pack(row: Row, columns: Columns) -> Row:
    """A row as samples of few columns have it: `id`, `tokens`, `label`, `caption`, and JSON text of the rest, `facts`.

    Without a label there stands -1 or "", without a caption "".
    """
    packed = {"id": row["id"], "tokens": row["tokens"]}
    if "label" in columns:
        missing = -1 if columns["label"] == "int" else ""
        packed["label"] = missing if row.get("label") is None else row["label"]
    if "caption" in columns:
        packed["caption"] = row.get("caption") or ""
    rest = {name: plain(row[name]) for name in columns if name not in packed and row.get(name) is not None}
    return packed | {"facts": json.dumps(rest, ensure_ascii=False)}


def unpack(packed: Row) -> Row:
    """The inverse of `pack`."""
    row = {"id": packed["id"], "tokens": packed["tokens"], **json.loads(packed["facts"])}
    row["label"] = None if packed.get("label") in (-1, "") else packed.get("label")
    return row | {"caption": packed.get("caption") or None}
