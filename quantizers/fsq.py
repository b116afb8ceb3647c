"""FSQ: finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Quantized, Quantizer

__all__ = ["FSQ"]

_EXACT = 2**24  # whole numbers up to here are exact in float32
_ROW = 8
_MOST = 2**20  # float32 still tells tenths of a step


class FSQ(Quantizer):
    """Finite scalar quantization: bound each channel, round it to a few levels (arXiv 2309.15505).

    With L levels, h = (L - 1)(1 + margin) / 2, at most (L - 1) / 2 + 0.45, and an offset o = 1/2 for even L (else 0):

        b(z) = h tanh(z + atanh(o / h)) - o,    digit = round(b) + L // 2,    code = round(b) / (L // 2)

    Codes of odd L are symmetric in [-1, 1]; those of even L reach -1 but not 1. `symmetric=True` spreads L values
    evenly over [-1, 1] for every L: digit = floor((L - 1)(tanh(z) + 1) / 2 + 1/2), code = 2 digit / (L - 1) - 1.
    The index reads the digits as a mixed-radix number, first channel least significant. There is nothing to learn and
    no loss.

    Args:
        levels: values per channel, 2 to 2**20 each; `dim` is their number and the codebook has prod(levels) entries.
        symmetric: use the symmetric codes.
        margin: of h, by which latents must overshoot the outer levels: 1e-3 as published; CosyVoice 2 has -1e-3.
            Symmetric codes have none.

    Raises:
        ValueError: no levels, a level or the margin out of range, or more codes than an int64 index can name.
    """

    def __init__(self, levels: Sequence[int], *, symmetric: bool = False, margin: float = 1e-3) -> None:
        super().__init__()
        self.levels = tuple(int(level) for level in levels)
        self.symmetric = symmetric
        if not self.levels or min(self.levels) < 2 or max(self.levels) > _MOST:
            raise ValueError(f"FSQ expects levels of 2 to 2**20 each, got {list(levels)}; e.g. levels=[8, 8, 8, 5, 5]")
        if math.prod(self.levels) > 2**63 - 1:
            raise ValueError(f"FSQ expects at most 2**63 - 1 codes, got prod({list(levels)}); use fewer channels")
        least = max(-1 / (level - 1) if level > 2 else 0.0 for level in self.levels)
        if not (symmetric or least < margin < 1):
            raise ValueError(
                f"FSQ expects a margin above {least:g} and below 1 for levels {list(levels)}, got {margin}"
            )
        self.dim = len(self.levels)
        self.codebook_sizes = (math.prod(self.levels),)
        counts = torch.tensor(self.levels, device="cpu")
        reach = torch.minimum((counts - 1) * (1 + margin) / 2, (counts - 1) / 2 + 0.45)
        offset = (counts % 2 == 0) * 0.5
        self._lowest = [0 if symmetric else -(level // 2) for level in self.levels]
        self._unit = [(level - 1) / 2 if symmetric else float(level // 2) for level in self.levels]
        self._bound = [reach.tolist(), offset.tolist(), (offset / reach).atanh().tolist()]
        self._strides = [math.prod(self.levels[:channel]) for channel in range(self.dim)]

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, len(levels)) unbounded latents; the loss is 0.

        Raises:
            ValueError: z is not floating-point or not (B, N, len(levels)).
        """
        z = self._check_latents(z, mask)
        repeats = _repeats(z)
        constants = torch.tensor([row * repeats for row in (self._unit, *self._bound)], device=z.device)
        soft, steps = self._round(z.reshape(-1, repeats * self.dim), *constants)
        codes = self._codes(steps, constants[0]).view(z.shape)
        latents = self._estimate(soft.view(z.shape), codes)
        return Quantized(latents, self._indices(steps.view(z.shape)), z.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, len(levels)) in [-1, 1] of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, prod(levels)).
        """
        indices = self._check_indices(indices)
        levels, strides, lowest = torch.tensor((self.levels, self._strides, self._lowest), device=indices.device)
        steps = (indices // strides % levels + lowest).float()
        return self._codes(steps, torch.tensor(self._unit, dtype=torch.float32, device=steps.device))

    def _round(self, z: Tensor, unit: Tensor, reach: Tensor, offset: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Bounded latents before rounding, in the range of codes, and the steps they are rounded to."""
        if self.symmetric:
            soft = self._squash(z)
            return soft, (soft.detach() + 1).mul_(unit).add_(0.5).floor_()
        bounded = (z + shift).tanh() * reach - offset
        steps = bounded.detach().round().add_(0.0)  # -0 becomes 0, as in lookup
        return bounded / unit if self.training else bounded, steps

    def _squash(self, z: Tensor) -> Tensor:
        """Latents in the range of symmetric codes; the levels of ResidualFSQ have another rule."""
        return z.tanh()

    def _codes(self, steps: Tensor, unit: Tensor) -> Tensor:
        """Codes of steps (..., D), whole numbers that count from `_lowest`."""
        return steps / unit - 1 if self.symmetric else steps / unit

    def _indices(self, steps: Tensor) -> Tensor:
        """Indices (B, N, 1) int64 of steps (B, N, D): a float32 product where its sums are exact, else integers."""
        if self.codebook_sizes[0] > _EXACT:
            strides, lowest = torch.tensor((self._strides, self._lowest), device=steps.device)
            return ((steps.long() - lowest) * strides).sum(-1, keepdim=True)
        strides = torch.tensor(self._strides, dtype=torch.float32, device=steps.device)
        first = sum(low * stride for low, stride in zip(self._lowest, self._strides, strict=True))
        with torch.autocast(steps.device.type, enabled=False):
            return (steps.flatten(0, 1).mv(strides) - first).long().view(*steps.shape[:2], 1)

    def extra_repr(self) -> str:
        return f"levels={list(self.levels)}, symmetric={self.symmetric}"


def _repeats(z: Tensor) -> int:
    """How many positions of (B, N, D) to treat as one row: on a CPU, rows of a few channels cost four times as much."""
    rows = z.shape[0] * z.shape[1]
    return 1 if torch.compiler.is_compiling() or rows == 0 else min(rows & -rows, _ROW)
