"""LitData: `chunk-0-0.bin` and `index.json`, for `litdata.StreamingDataset`.

A sample is a dict with `id`, `tokens` (1D array of the folder's dtype), `label` where there are classes, `caption`, and
`facts`, JSON of everything else. Its own writer notes the time in the index, so we write the layout ourselves.

    uint32 samples, uint32 offsets (samples + 1), samples
    sample: uint32 size of every value, values
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.export.format import Row, Shard
from zoo.export.formats.base import Format, Rows, pack, unpack
from zoo.export.formats.chunks import ChunkFile, pack_chunk, pack_sample, unpack_sample

__all__ = ["LitData"]

NUMBERS = {"uint8": 4, "uint16": 5, "uint32": 6, "uint64": 7}
LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


class LitData(Format):
    """See the module."""

    name = "litdata"

    def names(self, number: int) -> tuple[str, ...]:
        return (f"chunk-0-{number}.bin",)

    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        names = self._names()
        samples = []
        for row in rows:
            values = pack(row, self.manifest.columns)
            parts = [_encode(values[name], self.manifest.dtype) for name in names]
            samples.append(pack_sample(parts, [False] * len(parts)))
        pack_chunk(samples, b"", paths[0])

    def finish(self, folder: Path, shards: Sequence[Shard]) -> tuple[Shard, ...]:
        names = self._names()
        kinds = {"tokens": f"no_header_numpy:{NUMBERS[self.manifest.dtype]}", "label": self._label()}
        spec = {"type": "builtins.dict", "context": json.dumps(names), "children_spec": [LEAF] * len(names)}
        config = {
            "chunk_bytes": None,
            "chunk_size": None,
            "compression": None,
            "data_format": [kinds.get(name, "str") for name in names],
            "data_spec": json.dumps([1, spec]),
            "encryption": None,
            "item_loader": "PyTreeLoader",
        }
        chunks = [
            {"chunk_bytes": shard.files[0].bytes, "chunk_size": shard.items, "dim": None, "filename": shard.file}
            for shard in shards
            if shard.items
        ]
        index = {"chunks": chunks, "config": config, "updated_at": "0"}
        (folder / "index.json").write_text(json.dumps(index, sort_keys=True))
        return tuple(shards)

    def open(self, folder: Path, shard: Shard) -> Rows:
        return LitRows(folder / shard.file, self._names(), self.manifest.dtype, self._label())

    def _label(self) -> str:
        return "int" if self.manifest.columns.get("label") == "int" else "str"

    def _names(self) -> list[str]:
        return ["id", "tokens", *(["label"] if "label" in self.manifest.columns else []), "caption", "facts"]


class LitRows:
    """The rows of a chunk."""

    def __init__(self, path: Path, names: Sequence[str], dtype: str, label: str) -> None:
        self.file, self.names, self.dtype, self.label = ChunkFile(path), names, dtype, label

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Row:
        values = unpack_sample(self.file.sample(index), [None] * len(self.names))
        row: Row = dict(zip(self.names, values, strict=True))
        row |= {name: row[name].decode() for name in ("id", "caption", "facts")}
        if "label" in row:
            row["label"] = int(np.frombuffer(row["label"], "<i8")[0]) if self.label == "int" else row["label"].decode()
        row["tokens"] = np.frombuffer(row["tokens"], self.dtype)
        return unpack(row)


def _encode(value: Any, dtype: str) -> bytes:
    if isinstance(value, np.ndarray):
        return value.astype(dtype).tobytes()
    return np.int64(value).tobytes() if isinstance(value, int) else value.encode()
