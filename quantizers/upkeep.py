"""Steps of a codebook's life that depend on its data, as operators: they run the same in eager and compiled graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .codebook import kmeans, sample_rows
from .distributed import broadcast_first, world_size

__all__ = ["align_once", "align_ranks", "replace_dead_codes", "snapshot", "start_codebook"]


@torch.library.custom_op("tokenizer_zoo::snapshot", mutates_args=())
def snapshot(x: Tensor) -> Tensor:
    """A copy of x with its gradient, which compilers keep as it is: x may be written to before the backward."""
    return x.clone()


@snapshot.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


snapshot.register_autograd(lambda context, gradient: gradient)


@torch.library.custom_op("tokenizer_zoo::align_ranks", mutates_args=("tensors",))
def align_ranks(tensors: list[Tensor]) -> None:
    """Copy rank 0's values into the tensors of every rank."""
    for tensor in tensors:
        tensor.copy_(broadcast_first(tensor.clone()))


def align_once(quantizer: nn.Module) -> None:
    """Take rank 0's parameters and buffers at the first training forward in a group of several ranks."""
    if not quantizer.training or world_size() == 1 or getattr(quantizer, "_aligned", False):
        return
    align_ranks([tensor.detach() for tensor in (*quantizer.parameters(), *quantizer.buffers())])
    quantizer._aligned = True  # type: ignore[assignment]


@torch.library.custom_op(
    "tokenizer_zoo::start_codebook", mutates_args=("codebook", "cluster_size", "cluster_sum", "initialized")
)
def start_codebook(
    x: Tensor,
    mask: Tensor | None,
    codebook: Tensor,
    cluster_size: Tensor | None,
    cluster_sum: Tensor | None,
    initialized: Tensor,
    iterations: int,
    normalize: bool,
) -> None:
    """k-means over the vectors x (N, D) of all ranks, unless `initialized`; the averages start from its clusters.

    When no rank has a vector the codebook waits for the next batch.
    """
    if bool(initialized):
        return
    if mask is not None:
        x = x[mask]
    means, counts = kmeans(x, sample_rows(x, len(codebook), codebook), iterations, normalize=normalize)
    if not bool(counts.any()):
        return
    codebook.copy_(means)
    counts = counts.clamp_min(1)
    if cluster_size is not None:
        cluster_size.copy_(counts)
    if cluster_sum is not None:
        cluster_sum.copy_(means * counts[:, None])
    initialized.fill_(True)


@torch.library.custom_op(
    "tokenizer_zoo::replace_dead_codes", mutates_args=("codebook", "cluster_size", "cluster_sum", "steps")
)
def replace_dead_codes(
    x: Tensor,
    mask: Tensor | None,
    codebook: Tensor,
    cluster_size: Tensor,
    cluster_sum: Tensor | None,
    steps: Tensor,
    interval: int,
    threshold: float,
) -> None:
    """Every `interval` calls, put vectors of x (N, D) in the place of codes used less than `threshold` of the average.

    They receive an average share of the counts, so that they last.
    """
    steps.add_(1)
    if interval > 1 and int(steps) % interval:
        return
    share = cluster_size.mean()
    dead = cluster_size < threshold * share
    if not bool(dead.any()):
        return
    if mask is not None:
        x = x[mask]
    rows = sample_rows(x, len(codebook), codebook)[dead]
    codebook[dead] = rows
    cluster_size[dead] = share
    if cluster_sum is not None:
        cluster_sum[dead] = rows * share
