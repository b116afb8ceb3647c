"""Entropy terms that reward confident choices and even codebook usage."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import all_reduce_sum, world_size

__all__ = ["Entropies", "EntropyFloor", "binary_entropies", "softmax_entropies"]

EntropyFloor = Literal["add", "clamp"]
_FLOOR = 1e-5


class Entropies(NamedTuple):
    """Entropies in nats.

    Attributes:
        per_sample: () mean entropy of each position's distribution over codes; small means confident.
        batch: () entropy of the distribution averaged over positions and ranks; large means even usage.
    """

    per_sample: Tensor
    batch: Tensor


def softmax_entropies(logits: Tensor) -> Entropies:
    """Entropies of softmax(logits), logits (N, K); the batch term is -p log(p + 1e-5), as in LlamaGen."""
    log_p = F.log_softmax(logits, dim=-1)
    p = log_p.exp()
    per_sample = -(p * log_p).sum() / max(len(logits), 1)
    return Entropies(per_sample, _entropy(_average(p.sum(0), len(logits)), "add").sum())


def binary_entropies(logits: Tensor, group_bits: int, floor: EntropyFloor = "add") -> Entropies:
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

    Returns:
        Entropies of all G bits together.
    """
    count, bits = logits.shape
    per_sample, batch = logits.new_zeros(()), logits.new_zeros(())
    if floor == "add":
        margin = logits.abs()
        per_sample = (F.softplus(-margin) + margin * (-margin).sigmoid()).sum() / max(count, 1)
    for group in logits.tensor_split(-(-bits // group_bits), dim=1):
        left, right = (_joint(half) for half in group.tensor_split(2, dim=1))
        if floor == "clamp":
            joint = (left[:, :, None] * right[:, None, :]).flatten(1)
            per_sample = per_sample + _entropy(joint, floor).sum() / max(count, 1)
        with torch.autocast(logits.device.type, enabled=False):
            total = left.T @ right
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


def _average(total: Tensor, count: int) -> Tensor:
    """Average of probabilities over all positions of all ranks, from this rank's sum over `count` of them.

    The gradient to this rank's sum is scaled by the world size, so that the mean over ranks that data-parallel
    training takes is the gradient of the global average.
    """
    if world_size() == 1:
        return total / max(count, 1)
    shared = all_reduce_sum(torch.cat((total.detach().flatten(), total.new_tensor([count, 1]))))
    positions, ranks = shared[-2].clamp_min(1), shared[-1]
    return shared[:-2].view_as(total) / positions + (total - total.detach()) * (ranks / positions)
