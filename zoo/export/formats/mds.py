"""MosaicML's MDS, version 2: `shard.00000.mds` and `index.json`, for `streaming.StreamingDataset` and llm-foundry.

Columns: `id` and `caption` (str), `tokens` (ndarray of the folder's dtype), `label` (int, or str where classes have
names only), `facts` (json, everything else). We write the layout ourselves: the package needs older versions of numpy
and transformers than the rest of this project.

    uint32 samples, uint32 offsets (samples + 1), JSON header, samples
    sample: uint32 sizes of the columns without a fixed one, values; columns by name
    ndarray: one byte 4 * axes + log2(bytes of a side), sides, values
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

__all__ = ["MDS"]

SIDES = ("<u1", "<u2", "<u4", "<u8")


class MDS(Format):
    """See the module."""

    name = "mds"

    def names(self, number: int) -> tuple[str, ...]:
        return (f"shard.{number:05d}.mds",)

    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        columns = self._columns()
        header = json.dumps(self._config(), sort_keys=True).encode()
        samples = []
        for row in rows:
            values = pack(row, self.manifest.columns)
            fixed = [kind == "int" for kind in columns.values()]
            samples.append(pack_sample([_encode(values[name], kind) for name, kind in columns.items()], fixed))
        pack_chunk(samples, header, paths[0])

    def finish(self, folder: Path, shards: Sequence[Shard]) -> tuple[Shard, ...]:
        entries = [
            {
                **self._config(),
                "raw_data": {"basename": shard.file, "bytes": shard.files[0].bytes, "hashes": {}},
                "samples": shard.items,
                "zip_data": None,
            }
            for shard in shards
            if shard.items
        ]
        (folder / "index.json").write_text(json.dumps({"shards": entries, "version": 2}, sort_keys=True))
        return tuple(shards)

    def open(self, folder: Path, shard: Shard) -> Rows:
        return MDSRows(folder / shard.file, self._columns())

    def _columns(self) -> dict[str, str]:
        """Encodings by name, in the order in which samples have them."""
        kinds = {"id": "str", "tokens": f"ndarray:{self.manifest.dtype}", "caption": "str", "facts": "json"}
        if "label" in self.manifest.columns:
            kinds["label"] = "int" if self.manifest.columns["label"] == "int" else "str"
        return dict(sorted(kinds.items()))

    def _config(self) -> dict[str, Any]:
        columns = self._columns()
        sizes = [8 if kind == "int" else None for kind in columns.values()]
        names = {"column_encodings": [*columns.values()], "column_names": [*columns], "column_sizes": sizes}
        return {**names, "compression": None, "format": "mds", "hashes": [], "size_limit": None, "version": 2}


class MDSRows:
    """The rows of a file."""

    def __init__(self, path: Path, columns: dict[str, str]) -> None:
        self.file, self.columns = ChunkFile(path), columns
        self.sizes = [8 if kind == "int" else None for kind in columns.values()]

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Row:
        values = unpack_sample(self.file.sample(index), self.sizes)
        pairs = zip(self.columns.items(), values, strict=True)
        return unpack({name: _decode(value, kind) for (name, kind), value in pairs})


def _encode(value: Any, kind: str) -> bytes:
    if kind in ("str", "json"):
        return str(value).encode()
    if kind == "int":
        return np.int64(value).tobytes()
    side = next(number for number in range(4) if len(value) < 1 << (8 << number))
    head = bytes([4 + side]) + np.array([len(value)], SIDES[side]).tobytes()
    return head + value.astype(kind.partition(":")[2]).tobytes()


def _decode(data: bytes, kind: str) -> Any:
    if kind in ("str", "json"):
        return data.decode()
    if kind == "int":
        return int(np.frombuffer(data, "<i8")[0])
    return np.frombuffer(data, kind.partition(":")[2], offset=1 + (1 << data[0] % 4))
