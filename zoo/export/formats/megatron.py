"""Megatron's indexed data sets: `train.bin` with `train.idx` (`--data-path OUT/train`), every item a document.

"MMIDIDX", 0, 0; uint64 version 1; uint8 code of the dtype; uint64 sequences; uint64 documents + 1;
int32 lengths; int64 places in bytes; int64 first sequences of documents, and the number of all
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from zoo.export.formats.streams import Streams

__all__ = ["Megatron"]

MAGIC, CODES = b"MMIDIDX\x00\x00", {"int32": 4, "uint16": 8}
MOST_UINT16 = 65500  # ids; Megatron takes int32 from there on


class Megatron(Streams):
    """See the module."""

    name = "megatron"
    index = "train.idx"

    @classmethod
    def id_dtype(cls, size: int) -> str:
        return "uint16" if size < MOST_UINT16 else "int32"

    def write_index(self, file: BinaryIO, starts: np.ndarray) -> None:
        count, dtype = len(starts) - 1, np.dtype(self.manifest.dtype)
        file.write(MAGIC + struct.pack("<QBQQ", 1, CODES[dtype.name], count, count + 1))
        file.write(np.diff(starts).astype("<i4").tobytes())
        file.write((starts[:-1] * dtype.itemsize).astype("<i8").tobytes())
        file.write(np.arange(count + 1, dtype="<i8").tobytes())
