"""What comes of a batch that went through a tokenizer: all that a measure reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.spec import TokenizerSpec
from zoo.tokens import Tokens

__all__ = ["Outcome", "Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a tokenizer is used; what its rows in a table differ in.

    Attributes:
        tokens: positions kept of a flexible code; None for all.
        codebooks: kept of a residual code; None for all.
    """

    tokens: int | None = None
    codebooks: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """B items before and after a tokenizer, as the protocol prepares them.

    Attributes:
        output: reconstructions. Pictures (B, 3, h, w) in [-1, 1], brought to the protocol's levels; sounds (B, C, T) in
            [-1, 1]; of shapes values (B, Q) at queries, above 0 inside.
        target: the originals, likewise.
        tokens: the codes that were decoded.
        spec: of the tokenizer.
        lengths: (B,) int64 samples of each sound that are no padding; None for all.
        surfaces: of shapes, points sampled from the reconstruction, from the original, and from the original once more,
            each (B, P, 3 or 6) with normals; NaN for a reconstruction without surface. None where no measure wants
            them.
        extent: of each item, what its rate is told per: pixels of a picture, seconds of a sound, 1 for a shape; (B,)
            float64.
        names: of the B items.
    """

    output: Tensor
    target: Tensor
    tokens: Tokens
    spec: TokenizerSpec
    extent: Tensor
    names: tuple[str, ...]
    lengths: Tensor | None = None
    surfaces: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, items: Sequence[int]) -> Outcome:
        """Some of the items, in this order."""
        rows = torch.tensor(items, dtype=torch.int64)

        def some(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)]

        return replace(
            self,
            output=some(self.output),
            target=some(self.target),
            tokens=self.tokens[rows.to(self.tokens.indices.device)],
            extent=some(self.extent),
            names=tuple(self.names[row] for row in items),
            lengths=None if self.lengths is None else some(self.lengths),
            surfaces=None if self.surfaces is None else tuple(map(some, self.surfaces)),  # type: ignore[arg-type]
        )
