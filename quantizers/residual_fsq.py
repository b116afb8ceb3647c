"""ResidualFSQ: finite scalar quantization whose levels refine each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .base import Quantized
from .fsq import FSQ
from .residual import Residual

__all__ = ["ResidualFSQ"]


class ResidualFSQ(Residual):
    """Residual quantization on ever finer grids: level k has the symmetric codes of FSQ times L^-k.

        r_0 = c tanh(z / c),  c = 1 + 1 / (L - 1),    code_k = L^-k fsq(clip(r_k L^k, -1, 1)),    r_{k+1} = r_k - code_k

    for each channel with its L values (vector-quantize-pytorch's `ResidualFSQ`; the row of levels is that of
    arXiv 2107.03312, the codes those of arXiv 2309.15505). fsq rounds to the nearest of the L values spread evenly over
    [-1, 1], so that what it leaves over is at most 1 / (L - 1), and every level shrinks the error by about L; without
    the scales nothing would be left for the second level to say (Cosmos: an rms error of 0.125 against 0.0009). There
    is nothing to learn and no loss. Under `gradient="once"` the estimate stands between r_0 and the sum of the codes;
    under "per_level" it adds up over levels, but for those whose input was clipped.

    Args:
        levels: values L of each channel, each >= 2; `dim` is their number.
        num_quantizers: number of levels Q; indices are (B, N, Q), each column in [0, prod(levels)).
        gradient, quantize_dropout, dropout_min, taps: as in `Residual`.

    Raises:
        ValueError: as `FSQ` and `Residual`.
    """

    def __init__(
        self,
        levels: Sequence[int],
        num_quantizers: int,
        *,
        gradient: Literal["once", "chained", "per_level"] = "once",
        quantize_dropout: float = 0.0,
        dropout_min: int = 1,
        taps: Sequence[int] = (),
    ) -> None:
        super().__init__(
            [_Stage(levels, depth) for depth in range(num_quantizers)],
            gradient=gradient,
            quantize_dropout=quantize_dropout,
            dropout_min=dropout_min,
            taps=taps,
        )
        self.values = tuple(int(level) for level in levels)

    def forward(self, z: Tensor, mask: Tensor | None = None, codebooks: int | None = None) -> Quantized:
        """Quantize (B, N, len(levels)) unbounded latents; the loss is 0."""
        z = self._check_latents(z, mask)
        values = torch.tensor(self.values, device=z.device)
        reach = 1 + 1 / (values - 1)
        return super().forward((z / reach).tanh() * reach, mask, codebooks)

    def extra_repr(self) -> str:
        return f"levels={list(self.values)}, {super().extra_repr()}"


class _Stage(FSQ):
    """Level `depth`: the symmetric codes times L^-depth, of an input cut off at the outermost of them."""

    def __init__(self, levels: Sequence[int], depth: int) -> None:
        super().__init__(levels, symmetric=True)
        self.depth = depth

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        scale = self._scale(z.device)
        found = super().forward(z / scale, mask)
        return Quantized(found.latents * scale, found.indices, found.loss)

    def lookup(self, indices: Tensor) -> Tensor:
        return super().lookup(indices) * self._scale(indices.device)

    def _scale(self, device: torch.device) -> Tensor:
        return torch.tensor(self.levels, dtype=torch.float32, device=device) ** -self.depth

    def _squash(self, z: Tensor) -> Tensor:
        return z.clamp(-1, 1)
