"""How a codebook is used by a set of codes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["codebook_perplexity", "codebook_usage"]


def codebook_usage(indices: Tensor, size: int) -> Tensor:
    """Share of a codebook's entries that occur at least once.

    Args:
        indices: int64 of any shape, in [0, size).
        size: entries of the codebook.

    Returns:
        () float64 in [0, 1].

    Raises:
        ValueError: no indices, or one outside [0, size).
    """
    return (_counts(indices, size) > 0).double().mean()


def codebook_perplexity(indices: Tensor, size: int) -> Tensor:
    """exp of the entropy of the codes: how many equally frequent entries would carry as much.

    Args:
        indices: int64 of any shape, in [0, size).
        size: entries of the codebook.

    Returns:
        () float64 in [1, size]; never above the number of indices.

    Raises:
        ValueError: no indices, or one outside [0, size).
    """
    counts = _counts(indices, size).double()
    return torch.special.entr(counts / counts.sum()).sum().exp()


def _counts(indices: Tensor, size: int) -> Tensor:
    if indices.numel() == 0 or int(indices.min()) < 0 or int(indices.max()) >= size:
        raise ValueError(f"expected indices in [0, {size}), got {_extent(indices)}; do they belong to this codebook?")
    return torch.bincount(indices.flatten(), minlength=size)


def _extent(indices: Tensor) -> str:
    return f"{int(indices.min())} to {int(indices.max())}" if indices.numel() else "none"
