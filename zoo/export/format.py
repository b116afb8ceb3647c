"""What a token folder holds: rows of one item each, and the manifest that lists them.

A row is plain data under the names of `Columns`; every format stores rows in its own way, so that what is written and
what is read meet here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from zoo.spec import TokenizerSpec
from zoo.streams import StreamOrder
from zoo.tokens import Tokens

__all__ = ["MANIFEST", "Columns", "Failure", "File", "Layout", "Manifest", "Record", "Row", "Shard", "code_dtype"]

MANIFEST, VERSION = "manifest.json", 1
OPTIONAL = {"positions": np.int64, "durations": np.int64, "gains": np.float32, "latents": np.float32}

Row = dict[str, Any]
Columns = dict[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a token folder.

    Attributes:
        id: the name that the source has for it.
        tokens: its codes, a batch of one.
        label: its class, a number in `Manifest.labels` where classes have names; None without one.
        caption: its text; None where the source has none at all.
        metadata: whatever else the source knows, by column.
    """

    id: str
    tokens: Tokens
    label: int | None = None
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File:
    """A file of a token folder.

    Attributes:
        name: inside the folder.
        bytes: its size.
        sha256: its digest.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that has no tokens.

    Attributes:
        id: the name that the source has for it.
        error: class of the error.
        message: what it said.
    """

    id: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Shard:
    """What became of one part of the source.

    Attributes:
        input: that part: a tar file's name, or `FIRST-LAST` numbers of items.
        items: rows.
        tokens: valid positions of all of them.
        files: first the one with the rows.
    """

    input: str
    items: int
    tokens: int
    files: tuple[File, ...]

    @property
    def file(self) -> str:
        """The name of the file with the rows."""
        return self.files[0].name


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of one item become a row, and the exact way back.

    A row has `id`, `tokens` (the valid part of the (N, Q) indices, row-major), `length` (valid positions), `slots` (N,
    where that is more) and `size`; codes of several scales have `lengths` and `scales` too, where an item has its own;
    what few tokenizers give (`positions`, `durations`, `gains`, `latents`) has its column where there is any.

    Attributes:
        codebook_sizes: of the codes that are kept; fewer than the tokenizer's after `--codebooks`.
        order: of the N axis, `TokenizerSpec.order`.
        scales: of a whole code, which rows with no `scales` of their own have.
        distinct_scales: as `TokenizerSpec.distinct_scales`.
        optional: those of `positions`, `durations`, `gains` and `latents` that rows have.
        float_size: sizes are centre and scale of a shape in place of pixels or samples.
        dim: D of `latents`.
    """

    codebook_sizes: tuple[int, ...]
    order: str
    scales: tuple[int, ...] = ()
    distinct_scales: bool = False
    optional: tuple[str, ...] = ()
    float_size: bool = False
    dim: int = 0

    @property
    def dtype(self) -> str:
        """Smallest unsigned integer that holds every index."""
        return code_dtype(max(self.codebook_sizes, default=1))

    def columns(self) -> Columns:
        """Names and kinds of what `row` gives."""
        columns = {"tokens": "codes", "length": "int", "slots": "int"}
        columns["size"] = "list<float>" if self.float_size else "list<int>"
        if self.scales:
            columns |= {"lengths": "list<int>", "scales": "list<int>"}
        kinds = {np.int64: "list<int>", np.float32: "list<float>"}
        return columns | {name: kinds[OPTIONAL[name]] for name in self.optional}

    def row(self, tokens: Tokens) -> Row:
        """The columns of one item's tokens, without those that are at their usual value."""
        lengths, width = tokens.lengths, tokens.num_tokens
        count = width if lengths is None or lengths.ndim == 2 else int(lengths[0])
        codes = tokens.indices[0, :count].numpy().astype(self.dtype).reshape(-1)
        row: Row = {"tokens": codes, "length": int(tokens.mask.sum())}
        if count < width:
            row["slots"] = width
        if lengths is not None and lengths.ndim == 2:
            row["lengths"] = lengths[0].tolist()
        if tokens.size is not None:
            row["size"] = tokens.size[0].tolist()
        if tokens.scales != self.scales:
            row["scales"] = list(tokens.scales)
        for name in self.optional:
            if (values := getattr(tokens, name)) is not None:
                row[name] = values[0].numpy().astype(OPTIONAL[name]).reshape(-1)
        return row

    def tokens(self, row: Row) -> Tokens:
        """The exact inverse of `row`: a batch of one."""
        depth = len(self.codebook_sizes)
        scales = self.scales if row.get("scales") is None else tuple(int(size) for size in row["scales"])
        lengths = None
        if row.get("lengths") is not None:
            lengths = torch.from_numpy(np.array([row["lengths"]], np.int64))
        elif row.get("slots") is not None:
            lengths = torch.tensor([row["length"]])
        codes = torch.from_numpy(np.asarray(row["tokens"]).astype(np.int64))
        if depth:
            indices = codes.view(1, -1, depth)
            missing = (row.get("slots") or indices.shape[1]) - indices.shape[1]
            indices = torch.nn.functional.pad(indices, (0, 0, 0, missing))
        else:
            indices = torch.zeros(1, row.get("slots") or row["length"], 0, dtype=torch.int64)
        found: Row = {}
        for name in self.optional:
            if row.get(name) is not None:
                values = torch.from_numpy(np.asarray(row[name], OPTIONAL[name]).copy())
                found[name] = values.view(1, indices.shape[1], self.dim) if name == "latents" else values[None]
        if row.get("size") is not None:
            found["size"] = torch.from_numpy(np.array([row["size"]], np.float64 if self.float_size else np.int64))
        layout: Any = {"scales": scales, "distinct_scales": self.distinct_scales, "order": self.order}
        return Tokens(indices, self.codebook_sizes, lengths, **found, **layout)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`: where the tokens of a folder come from and what they are. Nothing in it depends on how they were
    made: runners, workers and interruptions leave no trace.

    Attributes:
        format: of the shards: parquet, webdataset, litdata, mds, megatron or bin.
        tokenizer: name that `zoo.load` takes, as it was given.
        weights: sha256 of its weights; see `zoo.export.digest.weights_digest`.
        spec: its `TokenizerSpec.to_dict()`.
        layout: of the rows.
        order: in which codes stand in streams of ids; `flat` in the other formats, whose rows are (N, Q) row-major.
        vocabulary: `VocabularyLayout.to_dict()` of the ids; what streams of these tokens would have, in formats that
            hold none.
        dtype: of the stored codes or ids.
        columns: names and kinds of the rows' columns.
        labels: names of the classes; () where classes are numbers alone or there are none.
        items, tokens: of all shards.
        shards: in the order of the source.
        failed: items without tokens, in the order of the source.
        options: of the export, by which it can be repeated.
        versions: of what wrote it.
    """

    format: str
    tokenizer: str
    weights: str
    spec: dict[str, Any]
    layout: Layout
    order: StreamOrder
    vocabulary: dict[str, Any] | None
    dtype: str
    columns: Columns
    labels: tuple[str, ...]
    items: int
    tokens: int
    shards: tuple[Shard, ...]
    failed: tuple[Failure, ...]
    options: dict[str, Any]
    versions: dict[str, str]

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        """The spec of the tokenizer, with all of its codebooks."""
        return TokenizerSpec.from_dict(self.spec)

    def text(self) -> str:
        """What the file holds."""
        return json.dumps({"zoo": VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the `manifest.json` of a folder.

        Raises:
            FileNotFoundError: the folder has none: the export has not ended, or it is another folder.
            ValueError: it is damaged or of another version.
        """
        path = Path(folder).expanduser() / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {MANIFEST}; give a folder written by `zoo export`, and run an interrupted export "
                "again"
            )
        return cls.parse(path)

    @classmethod
    def parse(cls, path: Path) -> Self:
        """Read a manifest under any name; errors as `load`."""
        try:
            values = json.loads(path.read_text("utf-8"))
            if (version := values.pop("zoo", None)) != VERSION:
                raise ValueError(f"version {version!r}, expected {VERSION}")
            return cls._of(values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a manifest of `zoo export`: {error}") from error

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        shards = (
            Shard(**{**shard, "files": tuple(File(**file) for file in shard["files"])}) for shard in values["shards"]
        )
        return cls(
            **{
                **values,
                "layout": _layout(values["layout"]),
                "labels": tuple(values["labels"]),
                "shards": tuple(shards),
                "failed": tuple(Failure(**failure) for failure in values["failed"]),
            }
        )


def _layout(values: Mapping[str, Any]) -> Layout:
    given: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    return Layout(**given)


def code_dtype(cardinality: int) -> str:
    """The smallest unsigned integer for numbers in [0, cardinality), as numpy calls it."""
    for bits in (8, 16, 32):
        if cardinality <= 1 << bits:
            return f"uint{bits}"
    return "uint64"
