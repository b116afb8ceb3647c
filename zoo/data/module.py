"""Training and validation images as a Lightning data module."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.captions import Captioned
from zoo.data.datasets import Crops, ErrorLog
from zoo.data.sampler import StepSampler
from zoo.data.sources import Source, open_source

__all__ = ["ImageData"]


class ImageData(LightningDataModule):
    """Random crops for training, fixed crops for validation; batches (B, 3, S, S) float32 in [-1, 1].

    The training batch of a step depends on `seed` and the step alone: not on workers, restarts, or what was drawn
    before. Unreadable images are recorded, counted and replaced by the next readable one.

    Args:
        root: a folder of images, WebDataset shards (`.tar`, a folder or pattern of them) or a data set written by
            `datasets.save_to_disk`.
        image_size: pixels of the square crops.
        batch_size: crops per device and step.
        val_root: a separate source for validation; otherwise `val_fraction` of `root` is held out.
        val_fraction: share of the images of `root` that is held out, chosen by name; 0 for no validation.
        val_size: fixed crops in the validation set.
        split: which part of a saved `DatasetDict`.
        num_workers: processes that prepare batches. With `cache: ram` none is fastest for small crops.
        cache: "ram" decodes every image once and keeps all scales as uint8; "none" reads it for each crop.
        resize: shorter side given to every image before cropping, or None.
        scales: factors in (0, 1]; every crop is cut from the image shrunk by one of them (LANCZOS).
        crop: "random" for windows of the image, "resized" for windows of random area resized to `image_size`.
        area: bounds of the share of the image that a "resized" window covers.
        min_std: least grey standard deviation (0 to 255) of a random crop; flatter ones are redrawn.
        flip: mirror half of the training crops.
        jitter: strength of colour jitter in [0, 1].
        captions: give each batch the captions of its images, as `Captioned`, for tokenizers that read text: the file
            `NAME.txt` beside an image or in its shard, or the text column of a saved data set; "" where there is none.
        seed: of order and augmentation.

    Raises:
        ValueError: nothing readable at a root, or an option outside its range.
    """

    def __init__(
        self,
        root: str,
        image_size: int,
        batch_size: int = 32,
        *,
        val_root: str | None = None,
        val_fraction: float = 0.05,
        val_size: int = 64,
        split: str = "train",
        num_workers: int = 4,
        cache: Literal["none", "ram"] = "none",
        resize: int | None = None,
        scales: Sequence[float] = (1.0,),
        crop: Literal["random", "resized"] = "random",
        area: Sequence[float] = (0.25, 1.0),
        min_std: float = 0.0,
        flip: bool = True,
        jitter: float = 0.0,
        captions: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if crop not in ("random", "resized") or cache not in ("none", "ram"):
            raise ValueError(f"data.crop is random or resized, data.cache none or ram; got {crop!r} and {cache!r}")
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"data.scales are factors in (0, 1], got {list(scales)}")
        if not 0 <= val_fraction < 1 or not 0 <= jitter <= 1:
            raise ValueError(f"data.val_fraction is in [0, 1), jitter in [0, 1]; got {val_fraction} and {jitter}")
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"data.area is [low, high] with 0 < low <= high <= 1, got {list(area)}")
        self.root, self.val_root, self.split = root, val_root, split
        self.val_fraction, self.val_size = val_fraction, val_size
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed
        self._view: dict[str, Any] = {"scales": tuple(scales), "resize": resize, "min_std": min_std}
        self._view |= {"crop": crop, "area": (area[0], area[1]), "cache": cache == "ram", "captions": captions}
        self._augment: dict[str, Any] = {"flip": flip, "jitter": jitter}
        self.errors = ErrorLog()
        self._train: Crops | None = None
        self._val: Crops | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open the sources and divide them; fills the cache."""
        if self._train is not None:
            return
        source = open_source(self.root, self.split)
        held_source = source
        if self.val_root is not None:
            held_source = open_source(self.val_root, self.split)
            kept, held = list(range(len(source.names))), list(range(len(held_source.names)))
        else:
            kept, held = hold_out(source.names, self.val_fraction)
        self._train = self._crops(source, kept, self.seed, **self._augment)
        if held and self.val_size:
            self._val = self._crops(held_source, held, seed=0, flip=False)

    def _crops(self, source: Source, indices: Sequence[int], seed: int, **options: Any) -> Crops:
        return Crops(source, indices, self.image_size, seed=seed, errors=self.errors, **self._view, **options)

    def record_errors(self, path: Path) -> None:
        """Append unreadable images to a JSON-lines file from now on (all workers do)."""
        self.errors.path = path

    def train_dataloader(self) -> DataLoader[Tensor | Captioned]:
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

    def val_dataloader(self) -> DataLoader[Tensor | Captioned] | list[Any]:
        """The same crops every time, an equal share for each rank; empty without a validation set."""
        if self._val is None:
            return []
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        keys = [(draw % len(self._val), draw) for draw in range(self.val_size)][rank::world]
        batches = [keys[first : first + self.batch_size] for first in range(0, len(keys), self.batch_size)]
        return self._loader(self._val, batches)

    def _loader(self, crops: Crops, batches: Any) -> DataLoader[Tensor | Captioned]:
        return DataLoader(
            crops,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_ready,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def on_after_batch_transfer(self, batch: Tensor | Captioned, dataloader_idx: int) -> Tensor | Captioned:
        """uint8 -> float32 in [-1, 1], on the device."""
        if isinstance(batch, Captioned):
            return Captioned(self._scaled(batch.images), batch.captions)
        return self._scaled(batch)

    @staticmethod
    def _scaled(batch: Tensor) -> Tensor:
        return batch.float() / 127.5 - 1 if batch.dtype == torch.uint8 else batch


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
