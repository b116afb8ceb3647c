"""Exported tokens as training batches for generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.base import SampledData, hold_out
from zoo.data.sampler import mix
from zoo.export.format import Record
from zoo.generators.base import ABSENT, Vocabulary
from zoo.token_dataset import TokenDataset

__all__ = ["Codes", "TokenData"]


@dataclass(frozen=True, slots=True)
class Codes:
    """A batch of exported items.

    Attributes:
        indices: (B, N, Q) int64, -1 past the end of items.
        labels: (B,) int64; None where items have no classes.
    """

    indices: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Both on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Both in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Any) -> Self:
        return type(self)(change(self.indices), None if self.labels is None else change(self.labels))


class TokenData(SampledData):
    """Items of folders that `zoo export` wrote; batches are `Codes`.

    The batch of a step depends on `seed` and the step alone. Items are held out for validation by a digest of their
    ids, so that neither their order nor the format of the folder matters.

    Args:
        tokens: the folder.
        batch_size: items per device and step.
        length: positions of a window, for sounds and other codes without a fixed length: longer items give a random
            stretch in training and their beginning in validation. None for the longest item.
        ends: whether the generator learns where items end; None: where they differ in length and their codes are coarse
            to fine.
        val_tokens: a separate folder for validation; otherwise `val_fraction` of `tokens` is held out.
        val_fraction: share of the items that is held out; 0 for no validation.
        val_size: most items in the validation set.
        num_workers: processes that prepare batches.
        cache: "ram" reads every item once; "none" reads it each time.
        seed: of order and windows.

    Raises:
        FileNotFoundError, ValueError: no such folder, or it holds no codes.
    """

    def __init__(
        self,
        tokens: str,
        batch_size: int = 32,
        *,
        length: int | None = None,
        ends: bool | None = None,
        val_tokens: str | None = None,
        val_fraction: float = 0.05,
        val_size: int = 256,
        num_workers: int = 0,
        cache: Literal["ram", "none"] = "ram",
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokens,
            batch_size,
            val_root=val_tokens,
            val_fraction=val_fraction,
            val_size=val_size,
            split="",
            num_workers=num_workers,
            seed=seed,
        )
        if cache not in ("ram", "none"):
            raise ValueError(f"data.cache is ram or none, got {cache!r}")
        if length is not None and length < 1:
            raise ValueError(f"data.length is at least 1, got {length}")
        self.length, self.ends, self.cache = length, ends, cache
        self.dataset = TokenDataset(tokens)
        if not self.manifest.layout.codebook_sizes or not len(self.dataset):
            raise ValueError(f"{tokens} holds no codes to learn from; export with a tokenizer that has codebooks")

    @property
    def manifest(self) -> Any:
        """What the folder says of its tokens."""
        return self.dataset.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty where they have none."""
        return tuple(self.manifest.labels)

    @cached_property
    def classes(self) -> int | None:
        """Number of classes; None where items have none."""
        found = self._facts[1]
        return None if found is None else max(found + 1, len(self.labels))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The codes of a batch."""
        counts, _, sizes = self._facts
        spec, layout = self.manifest.tokenizer_spec, self.manifest.layout
        count = self.length or max(counts)
        nested = spec.order == "coarse_to_fine"
        flexible = (nested and min(counts) < count) if self.ends is None else self.ends
        if spec.modality == "image" and spec.any_size and len(sizes) > 1:
            raise ValueError(
                f"{self.root} holds pictures of {len(sizes)} sizes, and a generator draws one: export with --size SIDE"
            )
        size: tuple[int, ...] | None = next(iter(sizes)) if len(sizes) == 1 else None
        if spec.modality == "audio" and spec.downsample is not None and not layout.scales:
            size = (count * spec.downsample,)
        whole = Vocabulary.of(spec, num_tokens=count, size=size)
        scales = layout.scales if sum(layout.scales) == count else ()
        return Vocabulary(
            layout.codebook_sizes,
            count,
            whole.order,
            flexible,
            scales,
            layout.distinct_scales and bool(scales),
            whole.grid,
            whole.size,
        )

    @cached_property
    def _facts(self) -> tuple[set[int], int | None, set[tuple[int, ...]]]:
        """Lengths of items, the largest class, and sizes of what they stand for."""
        counts, largest, sizes = set(), None, set()
        for record in self._records(self.dataset):
            tokens = record.tokens
            counts.add(int(tokens.mask.sum()))
            if record.label is not None:
                largest = record.label if largest is None else max(largest, record.label)
            if tokens.size is not None and not tokens.size.is_floating_point():
                sizes.add(tuple(tokens.size[0].tolist()))
        return counts, largest, sizes

    def _records(self, dataset: TokenDataset) -> Any:
        """All records, kept where there is a cache."""
        if self.cache == "none":
            return dataset
        kept = self.__dict__.setdefault("_kept", {})
        if dataset.folder not in kept:
            kept[dataset.folder] = list(dataset)
        return kept[dataset.folder]

    def setup(self, stage: str | None = None) -> None:
        """Divide the items."""
        if self._train is not None:
            return
        records = held_records = self._records(self.dataset)
        kept, held = hold_out([record.id for record in records], self.val_fraction if self.val_root is None else 0.0)
        if self.val_root is not None:
            other = TokenDataset(self.val_root)
            if other.manifest.weights != self.manifest.weights:
                raise ValueError(f"{self.val_root} and {self.root} hold tokens of different tokenizers")
            held_records = self._records(other)
            held = list(range(len(held_records)))
        self._train = self.samples_of(records, kept, training=True)
        if held and self.val_size:
            self.val_size = min(self.val_size, len(held))
            self._val = self.samples_of(
                held_records, held[:: max(1, len(held) // self.val_size)][: self.val_size], training=False
            )

    def samples_of(self, source: Any, indices: Sequence[int], *, training: bool) -> Any:
        """Windows of some items."""
        return Windows(source, indices, self.vocabulary, self.classes is not None, seed=self.seed if training else None)


class Windows(Dataset[Codes]):
    """Codes of some items, all of N positions.

    Args:
        records: a sequence of `Record`.
        indices: which of them.
        vocabulary: says N.
        labelled: whether items have classes.
        seed: of the place of windows of longer items; None for their beginning.
    """

    def __init__(
        self, records: Any, indices: Sequence[int], vocabulary: Vocabulary, labelled: bool, *, seed: int | None
    ) -> None:
        self.records, self.indices, self.vocabulary = records, indices, vocabulary
        self.labelled, self.seed = labelled, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Codes:
        """A batch of (index, draw)."""
        records = [self.records[self.indices[index]] for index, _ in keys]
        codes = [self._window(record, draw) for record, (_, draw) in zip(records, keys, strict=True)]
        labels = None
        if self.labelled:
            if missing := [record.id for record in records if record.label is None]:
                raise ValueError(f"{missing[0]} has no class while others have; export them all with classes, or none")
            labels = torch.tensor([record.label for record in records])
        return Codes(torch.stack(codes), labels)

    def _window(self, record: Record, draw: int) -> Tensor:
        """(N, Q) int64."""
        indices = record.tokens.indices[0].masked_fill(~record.tokens.mask[0][:, None], ABSENT)
        count, room = self.vocabulary.num_tokens, len(indices) - self.vocabulary.num_tokens
        if room > 0:
            start = 0 if self.seed is None else Random(mix(self.seed, draw)).randint(0, room)
            indices = indices[start : start + count]
        return torch.nn.functional.pad(indices, (0, 0, 0, count - len(indices)), value=ABSENT)
