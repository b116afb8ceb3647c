"""What the data modules of all modalities share: endless training batches, fixed validation batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from zoo.data.draws import Draws, ErrorLog
from zoo.data.sampler import StepSampler
from zoo.data.sources import Kind, Source, open_source

__all__ = ["SampledData", "hold_out"]


class SampledData(LightningDataModule, ABC):
    """Random samples of a source for training, fixed samples of held-out items for validation.

    The training batch of a step depends on `seed` and the step alone: not on workers, restarts, or what was drawn
    before. Unreadable items are recorded, counted and replaced by the next readable one.

    Args:
        root: where the items are; see `open_source`.
        batch_size: samples per device and step.
        val_root: a separate source for validation; otherwise `val_fraction` of `root` is held out.
        val_fraction: share of the items of `root` that is held out, chosen by name; 0 for no validation.
        val_size: fixed samples in the validation set.
        split: which part of a saved `DatasetDict`.
        num_workers: processes that prepare batches.
        seed: of order and augmentation.
    """

    kind: Kind

    def __init__(
        self,
        root: str,
        batch_size: int,
        *,
        val_root: str | None,
        val_fraction: float,
        val_size: int,
        split: str,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction is in [0, 1), got {val_fraction}")
        self.root, self.val_root, self.split = root, val_root, split
        self.val_fraction, self.val_size = val_fraction, val_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.errors = ErrorLog()
        self._train: Draws | None = None
        self._val: Draws | None = None

    @abstractmethod
    def samples_of(self, source: Source, indices: Sequence[int], *, training: bool) -> Draws:
        """The set that samples some items of a source, augmented in training."""

    def setup(self, stage: str | None = None) -> None:
        """Open the sources and divide them; fills the cache."""
        if self._train is not None:
            return
        source = open_source(self.root, self.split, self.kind)
        held_source = source
        if self.val_root is not None:
            held_source = open_source(self.val_root, self.split, self.kind)
            kept, held = list(range(len(source.names))), list(range(len(held_source.names)))
        else:
            kept, held = hold_out(source.names, self.val_fraction)
        self._train = self.samples_of(source, kept, training=True)
        if held and self.val_size:
            self._val = self.samples_of(held_source, held, training=False)

    def record_errors(self, path: Path) -> None:
        """Append unreadable items to a JSON-lines file from now on (all workers do)."""
        self.errors.path = path

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless batches that go on where the trainer's step count stands."""
        assert self._train is not None
        trainer = self.trainer
        steps = trainer.global_step if trainer else 0
        sampler = StepSampler(
            len(self._train),
            self.batch_size,
            seed=self.seed,
            start=steps * self.accumulate,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        return self._loader(self._train, sampler)

    @property
    def accumulate(self) -> int:
        """Batches that make one optimizer step."""
        module = self.trainer.lightning_module if self.trainer else None
        return getattr(module, "accumulate", 1)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The same samples every time, an equal share for each rank; empty without a validation set."""
        if self._val is None:
            return []
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        keys = [(draw % len(self._val), draw) for draw in range(self.val_size)][rank::world]
        batches = [keys[first : first + self.batch_size] for first in range(0, len(keys), self.batch_size)]
        return self._loader(self._val, batches)

    def _loader(self, samples: Draws, batches: Any) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_ready,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def hold_out(names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Divide by a hash of the name, so that neither listing order nor numbering of files matters.

    Returns:
        (kept, held out) positions; at least one on each side when `fraction` > 0 and there are two names.
    """
    if fraction == 0 or len(names) < 2:
        return list(range(len(names))), []
    ranked = sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode()).digest())
    count = min(max(1, round(len(names) * fraction)), len(names) - 1)
    return sorted(ranked[count:]), sorted(ranked[:count])


def _ready(batch: Any) -> Any:
    return batch
