"""Reading the folders that `zoo export` writes, whatever their format."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from torch import Tensor
from torch.utils.data import Dataset

from zoo.export.format import Manifest, Record, Row
from zoo.export.formats import Rows, find_format

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["TokenDataset"]

OPEN = 64  # shards


class TokenDataset(Dataset[Record]):
    """The items of a token folder, in the order of their source.

    Any item can be read at once, from any process: the object can be pickled, and files are opened where they are read.
    Reading in order, or with a shuffle that stays within some hundred items, touches every file once.

    Args:
        folder: written by `zoo export`.

    Attributes:
        folder: as given.
        manifest: see `Manifest`.

    Raises:
        FileNotFoundError: no manifest, or a shard is missing.
        ValueError: the manifest is damaged, or a shard has not the size that it says; the message names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = Manifest.load(self.folder)
        for shard in self.manifest.shards:
            for file in shard.files:
                path = self.folder / file.name
                if not path.is_file():
                    raise FileNotFoundError(f"{path} is missing, but {self.folder} lists it; copy it, or export again")
                if path.stat().st_size != file.bytes:
                    raise ValueError(
                        f"{path} has {path.stat().st_size} bytes, the manifest says {file.bytes}: it is truncated or "
                        "was changed; copy it again, or export again"
                    )
        self._ends = list(accumulate(shard.items for shard in self.manifest.shards))
        self._range = range(self.manifest.items)
        self._state: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Record | Self:
        """Item `index`, where negative ones count from the end; of a slice, a data set of those items."""
        if isinstance(index, slice):
            return self._part(self._range[index])
        try:
            place = self._range[index]
        except IndexError:
            raise IndexError(f"{self.folder} has {len(self)} items here, asked for {index}") from None
        number = bisect_right(self._ends, place)
        shard = self.manifest.shards[number]
        return self._record(self._rows(number)[place - self._ends[number] + shard.items])

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def shard(self, rank: int, world: int) -> Self:
        """The part of these items that belongs to one of `world` processes: a stretch, since those read fastest.

        Every item belongs to one part, and parts differ by at most one item.
        """
        if not 0 <= rank < world:
            raise ValueError(f"expected 0 <= rank < world, got rank {rank} of {world}")
        first, last = (len(self) * step // world for step in (rank, rank + 1))
        return self._part(self._range[first:last])

    def _part(self, places: range) -> Self:
        part = object.__new__(type(self))
        part.__dict__ = {**self.__dict__, "_range": places, "_state": {}}
        return part

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that `Record.label` counts; () where they have none."""
        return self.manifest.labels

    def decode(self, index: int, tokenizer: Tokenizer | None = None, **options: Any) -> Tensor:
        """The signal of one item, bit for bit what its tokens gave in memory.

        Args:
            index: of the item.
            tokenizer: the one that made the tokens; None loads it by its name, once.
            options: of `Tokenizer.decode`.

        Returns:
            (C, ...) on the tokenizer's device.

        Raises:
            ValueError: the tokenizer's weights are not those that made the tokens.
        """
        import torch

        record = self[index]
        tokenizer = self.tokenizer if tokenizer is None else self._checked(tokenizer)
        tokens = record.tokens.to(tokenizer.device)
        with torch.inference_mode():
            return tokenizer.decode(tokens, **_beside(tokenizer, record), **options)[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """What made the tokens, loaded at the first use."""
        if "tokenizer" not in self._state:
            from zoo.store.load import load

            self._state["tokenizer"] = self._checked(load(self.manifest.tokenizer))
        tokenizer: Tokenizer = self._state["tokenizer"]
        return tokenizer

    def verify(self) -> None:
        """Read every file and compare its digest.

        Raises:
            ValueError: one differs; the message names it.
        """
        from zoo.export.digest import file_digest

        for shard in self.manifest.shards:
            for file in shard.files:
                if (found := file_digest(self.folder / file.name)) != file.sha256:
                    raise ValueError(
                        f"{self.folder / file.name} has sha256 {found}, the manifest says {file.sha256}: it is "
                        "damaged; copy it again, or export again"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": {}}

    def _checked(self, tokenizer: Tokenizer) -> Tokenizer:
        from zoo.export.digest import weights_digest

        known = self._state.setdefault("checked", [])
        if not any(tokenizer is one for one in known):
            if (found := weights_digest(tokenizer)) != self.manifest.weights:
                raise ValueError(
                    f"{self.folder} was made by {self.manifest.tokenizer} with weights of sha256 "
                    f"{self.manifest.weights}, this tokenizer has {found}; load the one that it was made with"
                )
            known.append(tokenizer)
        return tokenizer

    def _rows(self, number: int) -> Rows:
        opened: OrderedDict[int, Rows] = self._state.setdefault("rows", OrderedDict())
        if number not in opened:
            shard = self.manifest.shards[number]
            rows = find_format(self.manifest.format)(self.manifest).open(self.folder, shard)
            if len(rows) != shard.items:
                raise ValueError(
                    f"{self.folder / shard.file} has {len(rows)} items, the manifest says {shard.items}; export again"
                )
            opened[number] = rows
            if len(opened) > OPEN:
                opened.popitem(last=False)
        opened.move_to_end(number)
        return opened[number]

    def _record(self, row: Row) -> Record:
        layout, label = self.manifest.layout, row.get("label")
        if isinstance(label, str):
            label = self.manifest.labels.index(label)
        own = {"id", "label", "caption", *layout.columns()}
        rest = {name: row.get(name) for name in self.manifest.columns if name not in own}
        return Record(row["id"], layout.tokens(row), label, row.get("caption"), rest)


def _beside(tokenizer: Tokenizer, record: Record) -> dict[str, Any]:
    """What a tokenizer reads beside tokens: a caption's features, where it is told captions."""
    from zoo.families.text import TextConditioned

    if isinstance(tokenizer, TextConditioned):
        return {"text": tokenizer.describe([record.caption or ""], 1)}
    return {}
