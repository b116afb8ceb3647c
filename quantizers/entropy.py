"""Entropy terms that reward confident choices and even codebook usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .distributed import all_reduce_sum, world_size

__all__ = ["Entropies", "EntropyFloor", "binary_entropies", "softmax_entropies"]

EntropyFloor = Literal["add", "clamp"]
_FLOOR = 1e-5
_BLOCK = 2**24  # 64 MiB of affinities


class Entropies(NamedTuple):
    """Entropies in nats.

    Attributes:
        per_sample: () mean entropy of each position's distribution over codes; small means confident.
        batch: () entropy of the distribution averaged over positions and ranks; large means even usage.
    """

    per_sample: Tensor
    batch: Tensor


def softmax_entropies(
    affinities: Callable[[Tensor], Tensor], x: Tensor, size: int, mask: Tensor | None = None
) -> Entropies:
    """Entropies of softmax(affinities(x)) over `size` codes; the batch term is -p log(p + 1e-5), as in LlamaGen.

    Rows are taken in blocks whose probabilities are computed again for the gradient, so that at most 2**24 of the
    N x K affinities exist at a time.

    Args:
        affinities: (R, D) vectors to (R, K) logits.
        x: (N, D) vectors.
        size: codes K.
        mask: (N,) bool, False for vectors that do not count.
    """
    weights = x.new_ones(len(x), 1) if mask is None else mask.to(x.dtype)[:, None]
    rows = max(_BLOCK // size, 1)

    def block(part: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(affinities(part), dim=-1)
        p = log_p.exp() * weight
        return -(p * log_p).sum(), p.sum(0)

    if len(x) <= rows:
        sums = [block(x, weights)]
    else:
        parts = zip(x.split(rows), weights.split(rows), strict=True)
        sums = [checkpoint(block, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    per_sample, total = (torch.stack(terms).sum(0) for terms in zip(*sums, strict=True))
    count = weights.sum()
    return Entropies(per_sample / count.clamp_min(1), _entropy(_average(total, count), "add").sum())


def binary_entropies(
    logits: Tensor, group_bits: int, floor: EntropyFloor = "add", mask: Tensor | None = None
) -> Entropies:
    """Entropies over the 2^G codes made of G independent bits, P(bit = 1) = sigmoid(logit).

    The per-sample entropy of independent bits is the sum of their entropies: exact. The batch entropy needs the
    averaged joint distribution. Splitting the bits into two halves with joint distributions A (N, 2^(G/2)) and
    B (N, 2^(G/2)), the average is A^T B / N: exact as well, and no N x 2^G tensor is made. Beyond `group_bits` bits the
    batch entropy is approximated by the sum over groups of at most `group_bits`, an upper bound of the joint entropy
    (tight when groups are independent over the data).

    Args:
        logits: (N, G) float32.
        group_bits: bits whose joint distribution is held, 2^group_bits entries.
        floor: "add": exact per-sample entropy, batch -p log(p + 1e-5) (Open-MAGVIT2); "clamp": both
            -p log(max(p, 1e-5)) (vector-quantize-pytorch), which materialises N x 2^group_bits probabilities and sums
            the per-sample term over groups.
        mask: (N,) bool, False for positions that do not count.

    Returns:
        Entropies of all G bits together.
    """
    bits = logits.shape[1]
    weights = logits.new_ones(len(logits), 1) if mask is None else mask.to(logits.dtype)[:, None]
    count = weights.sum()
    per_sample, batch = logits.new_zeros(()), logits.new_zeros(())
    if floor == "add":
        margin = logits.abs()
        entropies = F.softplus(-margin) + margin * (-margin).sigmoid()
        per_sample = (entropies * weights).sum() / count.clamp_min(1)
    for group in logits.tensor_split(-(-bits // group_bits), dim=1):
        left, right = (_joint(half) for half in group.tensor_split(2, dim=1))
        if floor == "clamp":
            joint = (left[:, :, None] * right[:, None, :]).flatten(1)
            per_sample = per_sample + (_entropy(joint, floor) * weights).sum() / count.clamp_min(1)
        with torch.autocast(logits.device.type, enabled=False):
            total = (left * weights).T @ right
        batch = batch + _entropy(_average(total, count), floor).sum()
    return Entropies(per_sample, batch)


def _joint(logits: Tensor) -> Tensor:
    """Distribution (N, 2^G) over the patterns of G independent bits with logits (N, G), first bit most significant."""
    joint = logits.new_ones(len(logits), 1)
    for logit in logits.unbind(1):
        p = torch.stack((-logit, logit), dim=1).sigmoid()
        joint = (joint[:, :, None] * p[:, None, :]).flatten(1)
    return joint


def _entropy(p: Tensor, floor: EntropyFloor) -> Tensor:
    return -p * (p + _FLOOR if floor == "add" else p.clamp_min(_FLOOR)).log()


def _average(total: Tensor, count: Tensor) -> Tensor:
    """Average of probabilities over all positions of all ranks, from this rank's sum over `count` of them.

    The gradient to this rank's sum is scaled by the world size, so that the mean over ranks that data-parallel
    training takes is the gradient of the global average.
    """
    if world_size() == 1:
        return total / count.clamp_min(1)
    shared = all_reduce_sum(torch.cat((total.detach().flatten(), count.detach()[None], count.new_ones(1))))
    positions, ranks = shared[-2].clamp_min(1), shared[-1]
    return shared[:-2].view_as(total) / positions + (total - total.detach()) * (ranks / positions)
