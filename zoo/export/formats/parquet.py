"""Parquet: one file a shard, one column for each name, codes as plain lists (`datasets.load_dataset("parquet", ...)`).

What the codes are stands in the schema's metadata under `zoo`, so that a file that was moved away still says it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.export.format import Row, Shard
from zoo.export.formats.base import Format, Rows

__all__ = ["Parquet"]

GROUP = 256  # rows that are decoded together when one is asked for
KEPT = 8  # groups in memory for each shard


class Parquet(Format):
    """See the module."""

    name = "parquet"
    package = "pyarrow"

    def names(self, number: int) -> tuple[str, ...]:
        return (f"shard-{number:05d}.parquet",)

    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = self._kinds()
        arrays = [_array([row.get(name) for row in rows], kind) for name, kind in kinds.items()]
        facts = {key: getattr(self.manifest, key) for key in ("tokenizer", "weights", "spec", "dtype", "labels")}
        schema = pa.schema([pa.field(name, kind) for name, kind in kinds.items()], {"zoo": json.dumps(facts)})
        table = pa.Table.from_arrays(arrays, schema=schema)
        pq.write_table(table, paths[0], row_group_size=GROUP, compression="zstd", use_dictionary=False)

    def open(self, folder: Path, shard: Shard) -> Rows:
        return ParquetRows(folder / shard.file)

    def _kinds(self) -> dict[str, Any]:
        import pyarrow as pa

        codes = pa.type_for_alias(self.manifest.dtype)
        kinds = {
            "codes": pa.list_(codes),
            "string": pa.string(),
            "json": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "list<int>": pa.list_(pa.int64()),
            "list<float>": pa.list_(pa.float64()),
        }
        return {name: kinds[kind] for name, kind in self.manifest.columns.items()}


class ParquetRows:
    """The rows of a file; groups of them are decoded and kept for a while."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self.file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: damaged or truncated parquet file ({error}); export it again") from error
        self.count = self.file.metadata.num_rows
        self._groups: OrderedDict[int, list[Any]] = OrderedDict()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        number, place = divmod(index, GROUP)
        if number not in self._groups:
            self._groups[number] = self._columns(number)
            if len(self._groups) > KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(number)
        return {name: column(place) for name, column in self._groups[number]}

    def _columns(self, number: int) -> list[Any]:
        """Each column of a group as (name, function from row to value)."""
        table = self.file.read_row_group(number)
        return [(name, _reader(table.column(name).combine_chunks())) for name in table.column_names]


def _reader(array: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_list(array.type) and array.null_count == 0:
        values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
        return lambda row: values[offsets[row] : offsets[row + 1]]
    return lambda row: array[row].as_py()


def _array(values: Sequence[Any], kind: Any) -> Any:
    """A column; lists of numbers by way of one flat array."""
    import pyarrow as pa

    if not pa.types.is_list(kind) or any(value is None for value in values):
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values], kind)
    offsets = np.cumsum([0, *(len(value) for value in values)]).astype(np.int32)
    flat = np.concatenate([np.asarray(value) for value in values]) if values else np.zeros(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, kind.value_type), type=kind)
