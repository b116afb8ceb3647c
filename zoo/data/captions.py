"""Pictures with captions, on their way from a data source to a tokenizer that reads text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Captioned"]


@dataclass
class Captioned:
    """A batch of pictures and their captions.

    Attributes:
        images: (B, 3, H, W).
        captions: B texts, "" where a picture has none.
    """

    images: Tensor
    captions: list[str]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.captions):
            raise ValueError(f"{len(self.images)} images need as many captions, got {len(self.captions)}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, items: slice) -> Tensor:
        """Some of the pictures, without captions."""
        return self.images[items]

    def to(self, device: torch.device | str, **options: Any) -> Self:
        """The pictures on a device."""
        return type(self)(self.images.to(device, **options), self.captions)

    def pin_memory(self) -> Self:
        """The pictures in page-locked memory."""
        return type(self)(self.images.pin_memory(), self.captions)
