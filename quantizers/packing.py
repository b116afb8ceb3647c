"""Several codebook columns as one index, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pack", "unpack"]


def pack(indices: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """Read the columns as the digits of a mixed-radix number, first column least significant.

    Args:
        indices: (..., Q) integers, column q in [0, codebook_sizes[q]).
        codebook_sizes: entries of each codebook.

    Returns:
        (...) int64 in [0, prod(codebook_sizes)).

    Raises:
        ValueError: another number of columns, no codebook, or more than 2**63 combinations.
    """
    strides = _strides(codebook_sizes)
    if indices.shape[-1] != len(strides):
        raise ValueError(f"pack expects indices (..., {len(strides)}), got {tuple(indices.shape)}")
    return (indices.long() * torch.tensor(strides, device=indices.device)).sum(-1)


def unpack(packed: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """The exact inverse of `pack`: (...) to (..., Q) int64.

    Raises:
        ValueError: no codebook, more than 2**63 combinations, or a value outside [0, prod(codebook_sizes)).
    """
    strides, total = _strides(codebook_sizes), math.prod(codebook_sizes)
    packed = packed.long()
    if not torch.compiler.is_compiling() and packed.numel() and packed.device.type != "meta":
        low, high = (int(bound) for bound in torch.stack(packed.aminmax()).tolist())
        if low < 0 or high >= total:
            raise ValueError(f"unpack expects values in [0, {total}), got {low} to {high}; other codebook sizes?")
    sizes = torch.tensor(list(codebook_sizes), device=packed.device)
    return packed[..., None] // torch.tensor(strides, device=packed.device) % sizes


def _strides(codebook_sizes: Sequence[int]) -> list[int]:
    total = math.prod(codebook_sizes)
    if not codebook_sizes or min(codebook_sizes) < 1 or total > 2**63:
        raise ValueError(
            f"one int64 holds 1 to 2**63 combinations of codes, codebook_sizes={tuple(codebook_sizes)} have {total}; "
            "keep the columns apart"
        )
    return [min(math.prod(codebook_sizes[:column]), 2**63 - 1) for column in range(len(codebook_sizes))]
