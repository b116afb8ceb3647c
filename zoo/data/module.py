"""Training and validation images as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.base import SampledData
from zoo.data.captions import Captioned
from zoo.data.datasets import Crops
from zoo.data.sources import IMAGES, Source

__all__ = ["ImageData"]


class ImageData(SampledData):
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

    kind = IMAGES

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
        super().__init__(
            root,
            batch_size,
            val_root=val_root,
            val_fraction=val_fraction,
            val_size=val_size,
            split=split,
            num_workers=num_workers,
            seed=seed,
        )
        if crop not in ("random", "resized") or cache not in ("none", "ram"):
            raise ValueError(f"data.crop is random or resized, data.cache none or ram; got {crop!r} and {cache!r}")
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"data.scales are factors in (0, 1], got {list(scales)}")
        if not 0 <= jitter <= 1:
            raise ValueError(f"data.jitter is in [0, 1], got {jitter}")
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"data.area is [low, high] with 0 < low <= high <= 1, got {list(area)}")
        self.image_size = image_size
        self._view: dict[str, Any] = {"scales": tuple(scales), "resize": resize, "min_std": min_std}
        self._view |= {"crop": crop, "area": (area[0], area[1]), "cache": cache == "ram", "captions": captions}
        self._augment: dict[str, Any] = {"flip": flip, "jitter": jitter}

    def samples_of(self, source: Source, indices: Sequence[int], *, training: bool) -> Crops:
        """Crops of some images of a source."""
        options = {"seed": self.seed, **self._augment} if training else {"seed": 0, "flip": False}
        return Crops(source, indices, self.image_size, errors=self.errors, **self._view, **options)

    def on_after_batch_transfer(self, batch: Tensor | Captioned, dataloader_idx: int) -> Tensor | Captioned:
        """uint8 -> float32 in [-1, 1], on the device."""
        if isinstance(batch, Captioned):
            return Captioned(self._scaled(batch.images), batch.captions)
        return self._scaled(batch)

    @staticmethod
    def _scaled(batch: Tensor) -> Tensor:
        return batch.float() / 127.5 - 1 if batch.dtype == torch.uint8 else batch
