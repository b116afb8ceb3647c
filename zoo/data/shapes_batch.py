"""Shapes on their way from prepared data to a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Shapes"]


@dataclass
class Shapes:
    """A batch of clouds, and what is known of the space around them.

    Attributes:
        points: (B, P, C) float32 on the surfaces: x, y, z, then unit normals where C is 6.
        queries: (B, Q, 3) float32 positions in the same frame.
        values: (B, Q) float32 at the queries: occupancy, 1 inside and 0 outside; or the distance from the surface,
            positive inside and negative outside. Either way a query is inside where its value is above 0.
        near: (B, Q) bool: drawn near the surface; the other queries are uniform in the volume.
    """

    points: Tensor
    queries: Tensor
    values: Tensor
    near: Tensor

    def __post_init__(self) -> None:
        batch, count = self.queries.shape[:2]
        shapes = tuple(tuple(tensor.shape) for tensor in (self.points, self.queries, self.values, self.near))
        if len(shapes[0]) != 3 or shapes[0][0] != batch or shapes[1:] != ((batch, count, 3), *[(batch, count)] * 2):
            raise ValueError(
                "Shapes expects points (B, P, C), queries (B, Q, 3), values (B, Q) and near (B, Q), got "
                + ", ".join(map(str, shapes))
            )

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, items: slice) -> Self:
        """Some of the shapes."""
        return type(self)(*(tensor[items] for tensor in self.tensors()))

    def to(self, device: torch.device | str, **options: Any) -> Self:
        """The batch on a device."""
        return type(self)(*(tensor.to(device, **options) for tensor in self.tensors()))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return type(self)(*(tensor.pin_memory() for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """Points, queries, values and near."""
        return tuple(getattr(self, field.name) for field in fields(self))
