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
    return usage_of(_counts(indices, size), size)


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
    return entropy_of(_counts(indices, size)).exp()


def usage_of(counts: Tensor, size: int) -> Tensor:
    """Share () float64 of a codebook's `size` entries that occur; counts (K,) may leave out those that do not."""
    return (counts > 0).sum().double() / size


def entropy_of(counts: Tensor) -> Tensor:
    """Entropy () float64 in nats of counts (K,); 0 where nothing was counted."""
    counts = counts.double()
    return torch.special.entr(counts / counts.sum().clamp_min(1)).sum()


def check_range(indices: Tensor, size: int) -> None:
    """Refuse an index outside [0, size).

    Raises:
        ValueError: naming the lowest and the highest index.
    """
    low, high = (int(bound) for bound in torch.stack(indices.aminmax()).tolist()) if indices.numel() else (0, 0)
    if low < 0 or high >= size:
        raise ValueError(f"expected indices in [0, {size}), got {low} to {high}; do they belong to this codebook?")


def _counts(indices: Tensor, size: int) -> Tensor:
    if indices.numel() == 0:
        raise ValueError(f"expected indices in [0, {size}), got none; pass the codes of at least one item")
    check_range(indices, size)
    return torch.bincount(indices.flatten(), minlength=size)
