"""Sums and copies over the ranks of the process group, looked up at every call: it may start after construction."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["all_gather_rows", "all_reduce_sum", "broadcast_first", "world_size"]


def world_size() -> int:
    """Ranks of the default process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of x over ranks, without gradient; x itself may be overwritten."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def broadcast_first(x: Tensor) -> Tensor:
    """Rank 0's x on every rank; x itself may be overwritten."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def all_gather_rows(x: Tensor) -> Tensor:
    """(n, D) of each rank, the same n everywhere, to (world * n, D) in the order of ranks."""
    ranks = world_size()
    if ranks == 1:
        return x
    gathered = x.new_empty(ranks * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(gathered, x.contiguous())
    return gathered
