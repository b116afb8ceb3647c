"""What keeps a codebook alive: k-means start, moving averages, dead-code replacement; equal on all ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import all_gather_rows, all_reduce_sum, broadcast_first, world_size
from .nearest import nearest_code

__all__ = ["cluster_totals", "ema_codes", "kmeans", "norm_ema_codes", "sample_rows", "update_average"]


def cluster_totals(
    x: Tensor, indices: Tensor, size: int, mask: Tensor | None = None, *, over_ranks: bool = True
) -> tuple[Tensor, Tensor]:
    """Vectors assigned to each code, counted and summed over all ranks.

    Args:
        x: (N, D) float32 vectors.
        indices: (N,) int64 code of each vector, in [0, size).
        size: codes in the codebook.
        mask: (N,) bool, False for vectors that do not count.
        over_ranks: False for this rank's vectors alone.

    Returns:
        Counts (size,) and sums (size, D), float32.
    """
    x = x.detach()
    weights = x.new_ones(len(x)) if mask is None else mask.to(x.dtype)
    rows = x if mask is None else x * weights[:, None]
    totals = x.new_zeros(size, x.shape[1] + 1)
    totals[:, :-1].index_add_(0, indices, rows)
    totals[:, -1].index_add_(0, indices, weights)
    if over_ranks:
        totals = all_reduce_sum(totals)
    return totals[:, -1], totals[:, :-1]


def update_average(average: Tensor, value: Tensor, decay: float) -> None:
    """average <- decay * average + (1 - decay) * value, in place."""
    average.lerp_(value.to(average.dtype), 1 - decay)


def ema_codes(cluster_size: Tensor, cluster_sum: Tensor, floor: float = 0.0, eps: float = 1e-5) -> Tensor:
    """Codes (K, D) from averaged counts (K,) and sums (K, D), counts Laplace-smoothed (arXiv 1711.00937, App. A.1) and
    then taken to be `floor` at least.
    """
    total = cluster_size.sum()
    smoothed = (cluster_size + eps) / (total + len(cluster_size) * eps) * total
    return cluster_sum / smoothed.clamp_min(max(floor, torch.finfo(smoothed.dtype).tiny))[:, None]


def norm_ema_codes(codebook: Tensor, counts: Tensor, sums: Tensor, decay: float) -> Tensor:
    """Unit codes (K, D) moved towards the direction of this step's mean latents; unused codes stay (arXiv 2208.06366).

    Args:
        codebook: (K, D) unit codes.
        counts: (K,) vectors of this step assigned to each code.
        sums: (K, D) their sums.
        decay: weight of the old code.
    """
    means = torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), codebook)
    return F.normalize(codebook.lerp(means, 1 - decay), dim=-1)


def sample_rows(x: Tensor, size: int, fallback: Tensor) -> Tensor:
    """Draw `size` vectors from the batches of all ranks; every rank gets the same ones.

    Each rank draws an equal share from its own batch without repetition. A batch smaller than the share is used whole
    and then again with a little noise, so that no two rows coincide; an empty one contributes rows of `fallback`.

    Args:
        x: (N, D) float32 vectors of this rank.
        size: rows wanted.
        fallback: (size, D) rows for ranks whose batch is empty.
    """
    share = -(-size // world_size())
    if len(x) == 0:
        drawn = fallback[:share]
    else:
        x = x.detach()
        order = torch.randperm(len(x), device=x.device)
        drawn = x[order[torch.arange(share, device=x.device) % len(x)]]
        if len(x) < share:
            spread = torch.maximum(x.std(0, correction=0), 0.1 * x.square().mean().sqrt()).clamp_min(1e-2)
            drawn = torch.cat((drawn[: len(x)], drawn[len(x) :] + 0.1 * spread * torch.randn_like(drawn[len(x) :])))
    return all_gather_rows(drawn)[:size]


def kmeans(x: Tensor, means: Tensor, iterations: int, *, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm over the vectors of all ranks; an empty cluster keeps its mean.

    Args:
        x: (N, D) float32 vectors of this rank.
        means: (K, D) initial means, equal on all ranks.
        iterations: updates of the means.
        normalize: project the means to unit length after each update (spherical k-means).

    Returns:
        Means (K, D) and the counts (K,) of the last assignment, equal on all ranks.
    """
    counts = means.new_zeros(len(means))
    for _ in range(iterations):
        counts, sums = cluster_totals(x, nearest_code(x, means), len(means))
        updated = sums / counts.clamp_min(1)[:, None]
        if normalize:
            updated = F.normalize(updated, dim=-1)
        means = torch.where(counts[:, None] > 0, updated, means)
    return broadcast_first(means.contiguous()), counts
