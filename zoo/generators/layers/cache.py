"""Keys and values of a sequence that is being generated, in memory that is reserved once."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

__all__ = ["KVCache"]


class KVCache:
    """Static memory for the keys and values of all layers.

    Args:
        depth: layers.
        rows: batch size, twice that of the items under guidance.
        heads, head_dim: of the attention.
        length: places of the longest sequence.
        device, dtype: of keys and values.

    Attributes:
        layers: keys and values of each layer, (2, rows, heads, length, head_dim).
    """

    def __init__(
        self,
        depth: int,
        rows: int,
        heads: int,
        length: int,
        head_dim: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        memory = torch.zeros(depth, 2, rows, heads, length, head_dim, device=device, dtype=dtype)
        self.layers: list[Tensor] = list(memory.unbind(0))

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def first(self, rows: int) -> Self:
        """A view of the first rows."""
        return self._map([layer[:, :rows] for layer in self.layers])

    def select(self, rows: Tensor) -> Self:
        """A copy of some rows (R,) int64, in that order: what a beam search goes on with."""
        return self._map([layer.index_select(1, rows) for layer in self.layers])

    def _map(self, layers: list[Tensor]) -> Self:
        other = object.__new__(type(self))
        other.layers = layers
        return other
