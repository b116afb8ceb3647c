"""What the formats for language models share: one stream of ids, an item after the other, in `train.bin`.

An item is the begin of its modality, its codes, its end (`zoo.VocabularyLayout`). Beside the stream lie `train.jsonl`,
a line of everything else for each item, and `train.rows.npy`, int64 (items + 1, 2), where items begin in the stream (in
ids) and in the lines (in bytes). Shards are joined into these at the end, and removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from zoo.export.digest import describe_file
from zoo.export.format import Row, Shard
from zoo.export.formats.base import Format, Rows, plain
from zoo.tokens import Tokens
from zoo.vocabulary import VocabularyLayout
from zoo.vocabulary_block import Block

__all__ = ["Streams"]

BIN, LINES, ROWS = "train.bin", "train.jsonl", "train.rows.npy"


class Streams(Format):
    """See the module."""

    streams = True
    index: ClassVar[str]

    def names(self, number: int) -> tuple[str, ...]:
        return (f"shard-{number:05d}.bin", f"shard-{number:05d}.jsonl")

    def check(self, row: Row) -> None:
        if row.get("lengths") is not None:
            raise ValueError("its scales end at different places, which a stream cannot say; use another format")
        if self.block.rows:
            width = len(row["tokens"]) // len(self.block.spec.codebook_sizes)
            self.block.rows_of(None if row.get("size") is None else torch.tensor([row["size"]]), width)

    def write(self, rows: Sequence[Row], paths: Sequence[Path]) -> None:
        with paths[0].open("wb") as stream, paths[1].open("wb") as lines:
            for row, ids in self._ids(rows):
                stream.write(ids.astype(self.manifest.dtype).tobytes())
                facts = {name: plain(row[name]) for name in self.manifest.columns if row.get(name) is not None}
                facts["tokens"] = len(ids)
                lines.write(json.dumps(facts, ensure_ascii=False).encode() + b"\n")

    def finish(self, folder: Path, shards: Sequence[Shard]) -> tuple[Shard, ...]:
        drafts = {name: folder / f".draft-{name}" for name in (BIN, LINES, ROWS, self.index)}
        for position, name in enumerate((BIN, LINES)):
            with drafts[name].open("wb") as joined:
                for shard in shards:
                    with (folder / shard.files[position].name).open("rb") as part:
                        shutil.copyfileobj(part, joined, 1 << 24)
        rows = np.array([(0, 0), *_places(drafts[LINES])], np.int64).cumsum(0)
        np.save(drafts[ROWS], rows, allow_pickle=False)
        with drafts[self.index].open("wb") as index:
            self.write_index(index, rows[:, 0])
        for name, draft in drafts.items():
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(folder / name)
        count, tokens = len(rows) - 1, sum(shard.tokens for shard in shards)
        return (Shard("all", count, tokens, tuple(describe_file(folder / name, name) for name in drafts)),)

    def clean(self, folder: Path, count: int) -> None:
        for number in range(count):
            for name in self.names(number):
                (folder / name).unlink(missing_ok=True)

    def open(self, folder: Path, shard: Shard) -> Rows:
        return StreamRows(folder, self)

    def write_index(self, file: BinaryIO, starts: np.ndarray) -> None:
        """What readers of the format expect beside the stream; `starts` (items + 1,) are ids."""
        raise NotImplementedError(f"{type(self).__name__} must define write_index")

    @property
    def block(self) -> Block:
        """The ids of the folder's one modality."""
        if self.manifest.vocabulary is None:
            raise ValueError(f"{self.name} holds ids of a vocabulary, and the manifest has none")
        return next(iter(VocabularyLayout.from_dict(self.manifest.vocabulary).blocks.values()))

    def _ids(self, rows: Sequence[Row]) -> Iterator[tuple[Row, np.ndarray]]:
        """Each row with its stream; neighbours of one layout at once."""
        layout, block = self.manifest.layout, self.block

        def alike(row: Row) -> Any:
            return len(row["tokens"]), row.get("scales"), row.get("size") is None

        for _, group in groupby(rows, alike):
            several = list(group)
            first = layout.tokens({**several[0], "slots": None})
            depth = len(layout.codebook_sizes)
            indices = np.stack([row["tokens"] for row in several]).astype(np.int64).reshape(len(several), -1, depth)
            size = None if first.size is None else torch.tensor([row["size"] for row in several])
            scales = first.scales if sum(first.scales) == indices.shape[1] else ()
            batch = Tokens(torch.from_numpy(indices), layout.codebook_sizes, None, size, scales=scales)
            yield from zip(several, block.ids(batch).numpy(), strict=True)


class StreamRows:
    """The rows behind a stream."""

    def __init__(self, folder: Path, kind: Streams) -> None:
        self.lines, self.block = folder / LINES, kind.block
        self.ids = np.memmap(folder / BIN, kind.manifest.dtype, "r") if (folder / BIN).stat().st_size else np.zeros(0)
        self.rows = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, index: int) -> Row:
        (start, place), (stop, end) = self.rows[index].tolist(), self.rows[index + 1].tolist()
        with self.lines.open("rb") as file:
            file.seek(place)
            row: Row = json.loads(file.read(end - place))
        ids = self.ids[start:stop].tolist()
        tokens, note = self.block.tokens(ids[1:-1], True)
        if len(ids) > 2 + bool(self.block.rows) and (tokens is None or note):
            raise ValueError(f"{self.lines.with_name(BIN)}: item {index} is no whole item ({note}); export it again")
        codes = np.zeros(0, np.int64) if tokens is None else tokens.indices.reshape(-1).numpy()
        return row | {"tokens": codes}


def _places(path: Path) -> Iterator[tuple[int, int]]:
    """Ids and bytes of each item, by its line."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)["tokens"], len(line)
