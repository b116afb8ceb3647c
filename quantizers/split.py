"""SplitResidual: stacks of residual levels side by side on the same latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from .base import Quantized, Quantizer

__all__ = ["SplitResidual"]


class SplitResidual(Quantizer):
    """Quantizers that all read z and add up their outputs (Mimi, arXiv 2410.00037, Sec. 3.3).

        latents = q_0(z) + q_1(z) + ...,    loss = sum(Q_i loss_i) / sum(Q_i),    Q_i the codebooks of stack i

    Nothing is subtracted between stacks, so each may serve a purpose of its own: Mimi distils a semantic teacher into
    a first stack of one level and leaves the sound to a second of seven,

        SplitResidual([Projected(Residual(VQ(256, 2048), n), 512, bias=False) for n in (1, 7)])

    The weights make the loss the mean over all levels when every stack reduces by "mean". Indices hold the columns of
    stack 0, then of stack 1, ...; first columns alone are decodable as far as the stack they end in allows it.

    Args:
        stacks: quantizers of one width, each usually `Projected(Residual(...), dim)` with projections of its own.

    Raises:
        ValueError: no stack, different widths or estimators, or a stack without codebooks.
    """

    prefixes = True

    def __init__(self, stacks: Sequence[Quantizer]) -> None:
        super().__init__()
        stacks = list(stacks)
        dims = [(stack.input_dim, stack.dim) for stack in stacks]
        if len(set(dims)) != 1 or not all(stack.codebook_sizes for stack in stacks):
            raise ValueError(f"SplitResidual expects stacks with codebooks and of one width, got (in, out) {dims}")
        if len({stack.estimator for stack in stacks}) > 1:
            raise ValueError(f"SplitResidual expects one estimator, got {[stack.estimator for stack in stacks]}")
        self.dim = stacks[0].dim
        self.codebook_sizes = tuple(size for stack in stacks for size in stack.codebook_sizes)
        self.stacks = nn.ModuleList(stacks)

    @property
    def input_dim(self) -> int:
        """Width that every stack reads."""
        return self._stacks()[0].input_dim

    @property
    def estimator(self) -> str:
        """The stacks'."""
        return self._stacks()[0].estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        for stack in self._stacks():
            stack.estimator = self._check_estimator(name)

    def forward(self, z: Tensor, mask: Tensor | None = None, codebooks: int | None = None) -> Quantized:
        """Quantize (B, N, input_dim); parts are weighted like the loss, and count 0 where a stack has none.

        Args:
            z, mask: as for every quantizer.
            codebooks: columns to stop after: whole stacks and the start of one that can be cut; None for all.
        """
        z = self._check_latents(z, mask)
        left = len(self.codebook_sizes) if codebooks is None else codebooks
        if not 0 < left <= len(self.codebook_sizes):
            raise ValueError(f"SplitResidual has 1 to {len(self.codebook_sizes)} codebooks, got {codebooks}")
        total = left
        latents, loss = z.new_zeros(()), z.new_zeros(())
        parts: dict[str, Tensor] = {}
        columns = []
        for number, stack in enumerate(self._stacks()):
            taken = min(left, len(stack.codebook_sizes))
            if not taken:
                break
            found = stack(z, mask) if taken == len(stack.codebook_sizes) else stack(z, mask, codebooks=taken)
            left, weight = left - taken, taken / total
            latents = found.latents if number == 0 else latents + found.latents
            loss = loss + weight * found.loss
            for name, part in found.parts.items():
                parts[name] = parts[name] + weight * part if name in parts else weight * part
            columns.append(found.indices)
        return Quantized(latents, torch.cat(columns, dim=-1), loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of indices (B, N, Q), or of first columns alone: whole stacks and the start of one.

        Raises:
            ValueError: wrong shape, dtype or range, or columns that end where their stack cannot be cut.
        """
        given = indices.shape[-1] if indices.ndim == 3 else 0
        known = 0 < given <= len(self.codebook_sizes)
        indices = self._check_indices(indices, self.codebook_sizes[:given] if known else None)
        ends = accumulate(len(stack.codebook_sizes) for stack in self._stacks())
        latents = torch.empty(0)
        for stack, end in zip(self._stacks(), ends, strict=True):
            start = end - len(stack.codebook_sizes)
            if start < given:
                found = stack.lookup(indices[..., start:end])
                latents = found if start == 0 else latents + found
        return latents

    def _stacks(self) -> list[Quantizer]:
        return [cast(Quantizer, stack) for stack in self.stacks]
