"""FSQ: finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Quantized, Quantizer

__all__ = ["FSQ"]

_MARGIN = 1e-3


class FSQ(Quantizer):
    """Finite scalar quantization: bound each channel, round it to a few levels (arXiv 2309.15505).

    With L levels, h = (L - 1)(1 + 1e-3) / 2 and an offset o = 1/2 for even L (else 0):

        b(z) = h tanh(z + atanh(o / h)) - o,    digit = round(b) + L // 2,    code = round(b) / (L // 2)

    Codes of odd L are symmetric in [-1, 1]; those of even L reach -1 but not 1. `symmetric=True` spreads L values
    evenly over [-1, 1] for every L: digit = floor((L - 1)(tanh(z) + 1) / 2 + 1/2), code = 2 digit / (L - 1) - 1.
    The index reads the digits as a mixed-radix number, first channel least significant. There is nothing to learn and
    no loss.

    Args:
        levels: values per channel, each >= 2; `dim` is their number and the codebook has prod(levels) entries.
        symmetric: use the symmetric codes.

    Raises:
        ValueError: no levels, a level below 2, or more codes than an int64 index can name.
    """

    def __init__(self, levels: Sequence[int], *, symmetric: bool = False) -> None:
        super().__init__()
        self.levels = tuple(int(level) for level in levels)
        self.symmetric = symmetric
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"FSQ expects levels of at least 2 each, got {list(levels)}; e.g. levels=[8, 8, 8, 5, 5]")
        if math.prod(self.levels) > 2**63 - 1:
            raise ValueError(f"FSQ expects at most 2**63 - 1 codes, got prod({list(levels)}); use fewer channels")
        self.dim = len(self.levels)
        self.codebook_sizes = (math.prod(self.levels),)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, len(levels)) unbounded latents; the loss is 0.

        Raises:
            ValueError: z is not floating-point or not (B, N, len(levels)).
        """
        z = self._check_latents(z, mask)
        levels, strides = self._radix(z.device)
        if self.symmetric:
            soft = z.tanh()
            digits = ((levels - 1) * (soft + 1) / 2 + 0.5).floor().long()
        else:
            half = (levels - 1) * (1 + _MARGIN) / 2
            offset = (levels % 2 == 0) * 0.5
            bounded = (z + (offset / half).atanh()).tanh() * half - offset
            digits = bounded.round().long() + levels // 2
            soft = bounded / (levels // 2)
        codes = self._codes(digits, levels)
        indices = (digits * strides).sum(-1, keepdim=True)
        return Quantized(self._estimate(soft, codes), indices, z.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, len(levels)) in [-1, 1] of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, prod(levels)).
        """
        indices = self._check_indices(indices)
        levels, strides = self._radix(indices.device)
        return self._codes(indices // strides % levels, levels)

    def _codes(self, digits: Tensor, levels: Tensor) -> Tensor:
        if self.symmetric:
            return digits.float() * 2 / (levels - 1) - 1
        return (digits - levels // 2).float() / (levels // 2)

    def _radix(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Levels and place values of the digits, made per call: buffers would stay on meta in a deferred load."""
        levels = torch.tensor(self.levels, device=device)
        return levels, levels.cumprod(0) // levels

    def extra_repr(self) -> str:
        return f"levels={list(self.levels)}, symmetric={self.symmetric}"
