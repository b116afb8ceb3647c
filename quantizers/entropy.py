"""Entropy terms that reward confident choices and even codebook usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .distributed import all_reduce_sum, world_size

__all__ = ["Entropies", "EntropyFloor", "binary_entropies", "softmax_entropies"]

EntropyFloor = Literal["none", "add", "clamp"]
_FLOOR = 1e-5
_TINY = 1e-37
_NEGLIGIBLE = 1e-9
_SATURATED = 200.0  # sigmoid(-200) is 0 in float32
_BLOCK = 2**24  # 64 MiB of affinities
_CPU_JOINT_BLOCK = 2**20  # 4 MiB of joint probabilities
_ACCELERATOR_JOINT_BLOCK = 2**25  # 128 MiB


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

    def block(part: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(affinities(part), dim=-1)
        p = log_p.exp() * weight
        return -(p * log_p).sum(), p.sum(0)

    per_sample, total = _sum_over_blocks(block, (x, weights), max(_BLOCK // size, 1))
    count = weights.sum()
    average, slope = _average(total.detach(), count)
    average = average + (total - total.detach()) * slope
    batch = -(average * _guarded(average, "add").log()).sum()
    return Entropies(per_sample / count.clamp_min(1), batch)


def binary_entropies(
    logits: Tensor, group_bits: int, floor: EntropyFloor = "none", mask: Tensor | None = None
) -> Entropies:
    """Entropies over the 2^G codes made of G independent bits, P(bit = 1) = sigmoid(logit).

    The per-sample entropy of independent bits is the sum of their entropies: exact. The batch entropy needs the joint
    distribution averaged over positions. With the bits split into two halves, whose joint distributions are the rows
    of A (N, 2^(G/2)) and B (N, 2^(G/2)), the average is A^T B / N: exact as well, one matrix product, two more for the
    gradient, and no N x 2^G tensor. Positions are taken in blocks, so that memory grows with 2^group_bits and not with
    N 2^(group_bits / 2).

    Above `group_bits` bits the batch entropy is the sum over equal groups of consecutive bits of at most that many: an
    upper bound of the joint entropy, tight when the groups are independent over the data. It overlooks what couples
    them: 18 bits sharpened until the joint entropy of the batch is 9.28 nats (of 12.48 at most) have 12.38 as two
    groups of nine and 12.48 bit by bit. Groups of 8 to 10 bits are a good middle where the joint costs too much.

    Args:
        logits: (N, Q, G) float32, Q codebooks of G bits.
        group_bits: bits whose joint distribution is held, 2^group_bits numbers.
        floor: how log p is guarded. "none": -p log p, exact. "add": batch -p log(p + 1e-5) (Open-MAGVIT2), which stays
            below log 1e5 = 11.5 nats. "clamp": both -p log(max(p, 1e-5)) (vector-quantize-pytorch), for which the
            per-sample term visits all N x 2^group_bits probabilities, in blocks.
        mask: (N,) bool, False for positions that do not count.

    Returns:
        Entropies of all G bits together, averaged over the codebooks; both 0 without positions.
    """
    rows, codebooks, bits = logits.shape
    weights = logits.new_ones(rows) if mask is None else mask.to(logits.dtype)
    per_sample, batch = logits.new_zeros(()), logits.new_zeros(())
    for group in _equal_groups(logits, -(-bits // group_bits)):
        confident, even, _, _ = _group_entropies(group, weights, floor, torch.is_grad_enabled() and group.requires_grad)
        if floor == "clamp":
            confident = _clamped_per_sample(group, weights)
        per_sample, batch = per_sample + confident.sum() / codebooks, batch + even.sum() / codebooks
    return Entropies(per_sample, batch)


def _equal_groups(logits: Tensor, count: int) -> list[Tensor]:
    """Split (N, Q, G) into `count` runs of bits, widths one apart at most: one (N, Q * runs, width) for each width."""
    width, wider = divmod(logits.shape[-1], count)
    head, tail = logits.tensor_split([wider * (width + 1)], dim=-1)
    runs = [head.unflatten(-1, (wider, width + 1))] if wider else []
    return [run.flatten(1, 2) for run in (*runs, tail.unflatten(-1, (count - wider, width)))]


@torch.library.custom_op("tokenizer_zoo::group_entropies", mutates_args=())
def _group_entropies(
    logits: Tensor, weights: Tensor, floor: str, with_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per-sample (Q,) and batch (Q,) entropies of Q groups of bits (N, Q, G), and their gradients (N, Q, G).

    An operator with gradients of its own: autograd would keep the joint factors of all positions. It works on
    (Q, G, N), so that the inner loops run over positions.
    """
    codebooks, bits = logits.shape[1:]
    half = bits - bits // 2
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.permute(1, 2, 0).clamp(-_SATURATED, _SATURATED).contiguous()
        p = torch.stack((-logits, logits), dim=2).sigmoid_()
        count = weights.sum()
        share = weights / count.clamp_min(1)
        unlikely, margin = p.amin(2), logits.abs()
        per_sample = margin.mul_(unlikely).sub_(unlikely.neg_().log1p_()).sum(1) @ share
        by_sample = logits.mul_(p[:, :, 0]).mul_(p[:, :, 1]).mul_(share).neg_() if with_gradients else logits

        p[:, 0] *= weights  # every joint probability is a multiple of its first factor
        p = F.threshold(p, _NEGLIGIBLE, 0.0, inplace=True)
        total = p.new_zeros(codebooks, 2**half, 2 ** (bits - half))
        blocks = _joint_blocks(p)
        for block in blocks:
            left, right = _joint_factors(block, half)
            total.baddbmm_(left, right.mT)
        average, slope = _average(total, count)
        batch, derivative = _batch_entropies(average, floor)
        if not with_gradients:
            return per_sample, batch, logits.new_empty(0), logits.new_empty(0)

        derivative *= slope
        patterns = [_bit_patterns(width, p.device).expand(codebooks, -1, -1) for width in (half, bits - half)]
        gradients: list[Tensor] = []
        for block in reversed(blocks):  # the factors of the last are at hand
            if gradients:
                left, right = _joint_factors(block, half)
            by_left, by_right = (derivative @ right).mul_(left), (derivative.mT @ left).mul_(right)
            by_bit = torch.cat((patterns[0] @ by_left, patterns[1] @ by_right), dim=1).unflatten(1, (bits, 2))
            # d p_pattern / d logit = p_pattern (bit - P(1)), which is P(0) or -P(1) times p_pattern
            gradients.append(block[:, :, 0] * by_bit[:, :, 1] - block[:, :, 1] * by_bit[:, :, 0])
        by_batch = torch.cat(gradients[::-1], dim=2)
    return per_sample, batch, by_sample.permute(2, 0, 1).contiguous(), by_batch.permute(2, 0, 1).contiguous()


@_group_entropies.register_fake
def _(logits: Tensor, weights: Tensor, floor: str, with_gradients: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codebooks, shape = logits.shape[1], logits.shape if with_gradients else (0,)
    return logits.new_empty(codebooks), logits.new_empty(codebooks), logits.new_empty(shape), logits.new_empty(shape)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.mark_non_differentiable(*output[2:])


def _use_gradients(ctx: Any, confident: Tensor, even: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
    by_sample, by_batch = ctx.saved_tensors
    return confident[:, None] * by_sample + even[:, None] * by_batch, None, None, None


_group_entropies.register_autograd(_use_gradients, setup_context=_keep_gradients)


def _joint_blocks(p: Tensor) -> tuple[Tensor, ...]:
    """Blocks of positions of (Q, G, 2, N) whose joint factors fit the cache of a CPU, or busy an accelerator."""
    codebooks, bits = p.shape[:2]
    held = _CPU_JOINT_BLOCK if p.device.type == "cpu" else _ACCELERATOR_JOINT_BLOCK
    return p.split(max(held // (codebooks * 2 ** (bits // 2 + 1)), 64), dim=3)


def _joint_factors(p: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Distributions (Q, 2^half, N) and (Q, 2^(G - half), N) over the patterns of the first and of the other bits."""
    left, right = p.split((half, p.shape[1] - half), dim=1)
    return _joint(left), _joint(right)


def _joint(p: Tensor) -> Tensor:
    """Distribution (Q, 2^G, N) over the patterns of G independent bits (Q, G, 2, N), first bit most significant.

    Neighbours are joined until one run is left. Factors below 1e-9 are dropped: products of many of them would leave
    float32's normal range, where some CPUs crawl.
    """
    runs, rest = p, None
    while runs.shape[1] > 1:
        if runs.shape[1] % 2:
            rest = runs[:, -1] if rest is None else _outer(runs[:, -1], rest)
        even = runs.shape[1] // 2 * 2
        runs = F.threshold(_outer(runs[:, 0:even:2], runs[:, 1:even:2]), _NEGLIGIBLE, 0.0)
    if runs.shape[1] == 0:
        return p.new_ones(len(p), 1, p.shape[-1])
    return runs[:, 0] if rest is None else _outer(runs[:, 0], rest)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """All products (..., I * J, N) of (..., I, N) and (..., J, N)."""
    return (left[..., :, None, :] * right[..., None, :, :]).flatten(-3, -2)


def _bit_patterns(bits: int, device: torch.device) -> Tensor:
    """(2 * bits, 2^bits) float32: row 2 i + v is 1 at the patterns whose bit i is v, first bit most significant."""
    place = torch.arange(bits - 1, -1, -1, device=device)[:, None, None]
    digits = torch.arange(2**bits, device=device) >> place & 1
    return (digits == torch.arange(2, device=device)[:, None]).float().flatten(0, 1)


def _batch_entropies(p: Tensor, floor: str) -> tuple[Tensor, Tensor]:
    """Entropies (Q,) of distributions (Q, I, J), overwritten, and their derivative up to a constant.

    A constant is no gradient: the probabilities of a position sum to 1.
    """
    if floor == "none":
        log = p.clamp_min(_TINY).log_()
        return -p.mul_(log).sum((1, 2)), log.neg_()
    guarded = _guarded(p, floor)
    log = guarded.log()
    slope = p / guarded if floor == "add" else (p >= _FLOOR).to(p.dtype)
    return -(p * log).sum((1, 2)), log.add_(slope).neg_()


def _clamped_per_sample(logits: Tensor, weights: Tensor) -> Tensor:
    """Mean over positions (Q,) of the sum of -p log(max(p, 1e-5)) over the patterns of the bits (N, Q, G)."""

    def block(part: Tensor, weight: Tensor) -> tuple[Tensor]:
        joint = _joint(torch.stack((-part, part)).sigmoid().permute(2, 3, 0, 1))
        return (((-joint * _guarded(joint, "clamp").log()).sum(1) * weight).sum(1),)

    _, codebooks, bits = logits.shape
    (total,) = _sum_over_blocks(block, (logits, weights), max(_BLOCK // (codebooks * 2**bits), 1))
    return total / weights.sum().clamp_min(1)


def _sum_over_blocks(
    block: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], rows: int
) -> tuple[Tensor, ...]:
    """Sum of block(part of each tensor) over parts of `rows` rows; several are computed again for the gradient."""
    if len(tensors[0]) <= rows:
        return block(*tensors)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    sums = [checkpoint(block, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.stack(terms).sum(0) for terms in zip(*sums, strict=True))


def _guarded(p: Tensor, floor: str) -> Tensor:
    """What stands for p in log p."""
    return p + _FLOOR if floor == "add" else p.clamp_min(_FLOOR)


def _average(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Average over all positions of all ranks, from this rank's sum over `count` of them, and its derivative.

    The derivative by this rank's sum is scaled by the number of ranks, so that the mean over ranks that data-parallel
    training takes is the gradient of the global average.
    """
    if world_size() == 1:
        count = count.clamp_min(1)
        return total / count, 1 / count
    shared = all_reduce_sum(torch.cat((total.flatten(), count[None], count.new_ones(1))))
    positions, ranks = shared[-2].clamp_min(1), shared[-1]
    return shared[:-2].view_as(total) / positions, ranks / positions
