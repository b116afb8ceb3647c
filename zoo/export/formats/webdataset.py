"""WebDataset: a tar file a shard, a sample `KEY.npy` (codes (N, Q)), `KEY.json` (all the rest), `.txt` and `.cls`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.export.format import Row, Shard
from zoo.export.formats.base import Format, Rows, plain

__all__ = ["WebDataset"]


class WebDataset(Format):
    """See the module."""

    name = "webdataset"

    def names(self, number: int) -> tuple[str, ...]:
        return (f"shard-{number:05d}.tar",)

    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        depth = len(self.manifest.layout.codebook_sizes)
        columns = [name for name in self.manifest.columns if name != "tokens"]
        with tarfile.open(paths[0], "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, row in enumerate(rows):
                codes = io.BytesIO()
                np.save(codes, row["tokens"].reshape(-1, depth), allow_pickle=False)
                facts = {name: plain(row[name]) for name in columns if row.get(name) is not None}
                members = {"npy": codes.getvalue(), "json": json.dumps(facts, ensure_ascii=False).encode()}
                if row.get("caption"):
                    members["txt"] = row["caption"].encode()
                if row.get("label") is not None:
                    members["cls"] = str(row["label"]).encode()
                for suffix, data in members.items():
                    header = tarfile.TarInfo(f"{number:08d}.{suffix}")  # of 1970, as its default is, for equal bytes
                    header.size = len(data)
                    archive.addfile(header, io.BytesIO(data))

    def open(self, folder: Path, shard: Shard) -> Rows:
        return TarRows(folder / shard.file)


class TarRows:
    """The samples of a tar file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, list[tuple[int, int]]] = {"npy": [], "json": []}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if (suffix := member.name.rpartition(".")[2]) in self.places:
                        self.places[suffix].append((member.offset_data, member.size))
        except tarfile.TarError as error:
            raise ValueError(f"{path}: damaged or truncated tar file ({error}); export it again") from error

    def __len__(self) -> int:
        return len(self.places["npy"])

    def __getitem__(self, index: int) -> Row:
        codes, facts = (self._member(*self.places[suffix][index]) for suffix in ("npy", "json"))
        return {**json.loads(facts), "tokens": np.load(io.BytesIO(codes), allow_pickle=False).reshape(-1)}

    def _member(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
