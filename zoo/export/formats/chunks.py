"""What MDS and LitData files have in common: offsets in front, then samples, each its sizes and then its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["ChunkFile", "pack_chunk", "pack_sample", "unpack_sample"]

LARGEST = 1 << 32


def pack_sample(values: Sequence[bytes], fixed: Sequence[bool]) -> bytes:
    """One sample: uint32 sizes of the values whose size is not fixed, then all values."""
    sizes = [len(value) for value, one in zip(values, fixed, strict=True) if not one]
    return np.array(sizes, "<u4").tobytes() + b"".join(values)


def unpack_sample(data: bytes, sizes: Sequence[int | None]) -> list[bytes]:
    """The values of a sample; `sizes` are those that are fixed."""
    open_ones = sum(size is None for size in sizes)
    found = iter(np.frombuffer(data, "<u4", open_ones).tolist())
    values, place = [], 4 * open_ones
    for size in sizes:
        length = next(found) if size is None else size
        values.append(data[place : place + length])
        place += length
    return values


def pack_chunk(samples: Sequence[bytes], header: bytes, path: Path) -> None:
    """Write uint32 number of samples, their uint32 offsets and the end of the last, `header`, samples.

    Raises:
        ValueError: it would be larger than offsets can say.
    """
    ends = np.cumsum([0, *map(len, samples)], dtype=np.int64) + 4 + 4 * (len(samples) + 1) + len(header)
    if ends[-1] >= LARGEST:
        raise ValueError(f"{path.name} would have {ends[-1]} bytes, the format ends at 4 GiB; use fewer --shard-items")
    with path.open("wb") as file:
        file.write(np.uint32(len(samples)).tobytes() + ends.astype("<u4").tobytes() + header)
        file.writelines(samples)


class ChunkFile:
    """The samples of a file that `pack_chunk` wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(4)
            self.count = int(np.frombuffer(head, "<u4")[0]) if len(head) == 4 else -1
            table = file.read(4 * (self.count + 1)) if self.count >= 0 else b""
        if self.count < 0 or len(table) != 4 * (self.count + 1):
            raise ValueError(f"{path}: truncated file; export it again")
        self.offsets = np.frombuffer(table, "<u4")

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> bytes:
        """Sample `index`."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise ValueError(f"{self.path}: breaks off inside item {index}; export it again")
        return data
