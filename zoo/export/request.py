"""What is asked for: everything that decides the bytes of an export, and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.streams import StreamOrder

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """Options of `zoo export` that its result depends on.

    Attributes:
        model: name, folder or hub id, as `zoo.load` takes it.
        data: see `zoo.export.inputs.open_inputs`.
        to: format of the shards.
        split: of a data set of several.
        shard_items: of a shard, where the data has no shards of its own.
        batch_size: items that go through the tokenizer together.
        dtype: of encoder and decoder: float32, bfloat16 or float16.
        tokens: positions to keep; None for all.
        codebooks: to keep; None for all.
        order: in which codes stand in streams of ids.
        text_vocab_size: ids below those of the codes, in streams.
        fit: how pictures are brought to a tokenizer of one size: crop, pad or stretch.
        max_side: that larger pictures are shrunk to, for a tokenizer of any size.
        size: of the squares that pictures are brought to by `fit`, for a tokenizer of any size; None for their own.
        chunk: seconds of sound that go through at once.
    """

    model: str
    data: str
    to: str = "parquet"
    split: str = "train"
    shard_items: int = 4096
    batch_size: int = 32
    dtype: str = "float32"
    tokens: int | None = None
    codebooks: int | None = None
    order: StreamOrder = "flat"
    text_vocab_size: int = 0
    fit: str = "crop"
    max_side: int | None = None
    size: int | None = None
    chunk: float = 30.0

    def __post_init__(self) -> None:
        for name in ("shard_items", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.size is not None and (self.size < 1 or self.max_side is not None):
            raise ValueError(f"size is at least 1 and stands in place of max_side, got {self.size} and {self.max_side}")
        if self.text_vocab_size < 0:
            raise ValueError(f"text_vocab_size is at least 0, got {self.text_vocab_size}")

    def options(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self)
