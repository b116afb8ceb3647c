"""A flat stream as nanoGPT reads it: `numpy.memmap("OUT/train.bin", dtype, "r")`; `train.json` says what is in it."""

from __future__ import annotations

import json
from typing import BinaryIO

import numpy as np

from zoo.export.formats.streams import Streams

__all__ = ["Binary"]


class Binary(Streams):
    """See the module."""

    name = "bin"
    index = "train.json"

    @classmethod
    def id_dtype(cls, size: int) -> str:
        return "uint16" if size <= 1 << 16 else "uint32"

    def write_index(self, file: BinaryIO, starts: np.ndarray) -> None:
        facts = {"dtype": self.manifest.dtype, "ids": int(starts[-1]), "items": len(starts) - 1}
        vocabulary = self.manifest.vocabulary or {}
        file.write(json.dumps({**facts, "vocab_size": vocabulary["size"], "vocabulary": vocabulary}).encode() + b"\n")
