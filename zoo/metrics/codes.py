"""How a codebook is used by a set of codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["codebook_perplexity", "codebook_usage", "coverage", "miller_madow"]


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


def miller_madow(counts: Tensor, size: int | None = None) -> Tensor:
    """Entropy in bits with the correction of Miller (1955) and Madow: plug-in + (entries seen - 1) / (2 n ln 2).

    Counting n codes makes the entropy look too small, by 0.1 bits for 32 768 codes of a uniform codebook of 4096.

    Args:
        counts: of each entry, any shape; entries that do not occur may be left out.
        size: entries of the codebook; no estimate is above log2(size).

    Returns:
        () float64; 0 where nothing was counted.
    """
    total, seen = counts.sum().clamp_min(1), (counts > 0).sum()
    bits = (entropy_of(counts.flatten()) + (seen - 1).clamp_min(0).double() / (2 * total)) / math.log(2)
    return bits if size is None else bits.clamp_max(math.log2(size))


def coverage(counts: Tensor) -> Tensor:
    """How much of a distribution a sample has seen (Good 1953): 1 - entries that came once / codes counted.

    The probability that the next code is one that was seen before. Far below 1, entropies describe the sample.

    Args:
        counts: of each entry, any shape; entries that do not occur may be left out.

    Returns:
        () float64 in [0, 1]; 0 where nothing was counted.
    """
    total = counts.sum()
    return (total - (counts == 1).sum()).double() / total.clamp_min(1)


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
