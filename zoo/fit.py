"""The smallest part of a flexible code that is good enough, found for each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zoo import metrics
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

__all__ = ["Fitted", "Target", "bisect", "fit_bits", "fit_length"]

Target = Literal["psnr", "ssim", "lpips", "bits"]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Codes cut to the length that a target asked for.

    Attributes:
        tokens: of B items; `tokens.lengths` says how long each is (None when all are of one length).
        lengths: (B,) int64, the same, always there.
        value: (B,) float64, what each item reaches with them.
        reached: (B,) bool; False where even the best allowed length misses the target.
    """

    tokens: Tokens
    lengths: Tensor
    value: Tensor
    reached: Tensor


@torch.no_grad()
def fit_length(
    tokenizer: Tokenizer,
    x: Tensor,
    target: Target = "psnr",
    value: float = 24.0,
    *,
    batch_size: int = 32,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Fitted:
    """The smallest prefix of each picture's code that reaches a quality, or the largest that a budget pays for.

    Lengths are halved in batch: every round decodes all pictures at once, each at a candidate length of its own, so N
    tokens take log2(N) + 1 decodings. That takes quality to rise with length. Where it does not, a shorter prefix that
    reaches the target may be missed, but what is returned was decoded and does reach it. A picture whose whole code
    misses the target keeps all of it, with `reached` False. "bits" is a budget and decodes nothing.

    Args:
        tokenizer: one whose prefixes decode (`spec.flexible`).
        x: (B, *spec.input_shape) in [-1, 1].
        target: "psnr" (dB) and "ssim" are to be at least `value`, "lpips" and "bits" at most.
        value: the goal.
        batch_size: pictures that are encoded and decoded together.
        lengths: the lengths that may be chosen, for tokenizers that were trained with few of them; None for all.
        seed: of the noise of stochastic decoders, which is the same at every length.
        options: passed to `tokenizer.decode`, such as `steps`.

    Returns:
        The codes, cut, with what they reach.

    Raises:
        ValueError: prefixes of this tokenizer do not decode, or the target does not fit it.
        RuntimeError: LPIPS has no weights, and they cannot be downloaded.
    """
    spec = tokenizer.spec
    if not spec.flexible:
        raise ValueError(
            f"fit_length needs a tokenizer whose prefixes decode; {type(tokenizer).__name__} has one length"
        )
    if target not in get_args(Target):
        raise ValueError(f"target is one of {', '.join(get_args(Target))}, got {target!r}")
    if target != "bits" and spec.modality != "image":
        raise ValueError(f"{target} measures images, {type(tokenizer).__name__} is for {spec.modality}; use 'bits'")
    if not len(x):
        raise ValueError("fit_length expects at least one item, got none")
    sign = -1 if target == "lpips" else 1

    def quality(tokens: Tokens, chunk: Tensor) -> Tensor:
        generator = torch.Generator(tokenizer.device).manual_seed(seed)
        return sign * getattr(metrics, target)(tokenizer.decode(tokens, generator=generator, **options), chunk)

    parts = []
    for chunk in x.split(batch_size):
        tokens = tokenizer.encode(chunk)
        if target == "bits":
            parts.append(fit_bits(tokens, value, lengths))
        else:
            found = bisect(tokens, partial(quality, chunk=chunk), sign * value, lengths)
            parts.append(replace(found, value=sign * found.value))
    return Fitted(
        Tokens.cat([part.tokens for part in parts]),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("lengths", "value", "reached")),
    )


def bisect(
    tokens: Tokens, quality: Callable[[Tokens], Tensor], goal: float, lengths: Sequence[int] | None = None
) -> Fitted:
    """The smallest prefix of each item whose quality is at least `goal`.

    Args:
        tokens: of B items.
        quality: of B items cut to lengths of their own, (B,), higher is better. It is called about log2(N) + 1 times.
        goal: to reach.
        lengths: those that may be chosen; None for all.
    """
    steps = candidates(tokens, lengths)
    full = tokens.mask.sum(1)
    last = torch.searchsorted(steps, full).clamp_max(len(steps) - 1)  # the first that keeps the whole code
    low, high = torch.zeros_like(full), last
    while bool((low < high).any()):
        middle = (low + high) // 2
        good = quality(tokens.keep(steps[middle])).to(low.device).double() >= goal
        low, high = torch.where(good, low, (middle + 1).minimum(high)), torch.where(good, middle, high)
    while True:
        cut = tokens.keep(steps[high])
        value = quality(cut).to(low.device).double()
        # Beside items of other lengths rounding differs: what was good by a hair may not be now.
        missed = (value < goal) & (high < last)
        if not bool(missed.any()):
            return Fitted(cut, cut.mask.sum(1), value, value >= goal)
        high = high + missed.long()


def fit_bits(tokens: Tokens, budget: float | Tensor, lengths: Sequence[int] | None = None) -> Fitted:
    """The largest prefix of each item that costs at most `budget` bits, () or (B,); the smallest where none does."""
    steps = candidates(tokens, lengths)
    costs = torch.stack([tokens.keep(int(step)).bits() for step in steps])
    affordable = (costs <= budget).sum(0)
    cut = tokens.keep(steps[(affordable - 1).clamp_min(0)])
    return Fitted(cut, cut.mask.sum(1), cut.bits(), affordable > 0)


def candidates(tokens: Tokens, lengths: Sequence[int] | None) -> Tensor:
    """Lengths (M,) int64, rising, that may be chosen for a batch.

    Raises:
        ValueError: one lies outside 1 to N.
    """
    count = tokens.num_tokens
    chosen = sorted(set(range(1, count + 1) if lengths is None else lengths))
    if not chosen or chosen[0] < 1 or chosen[-1] > count:
        raise ValueError(f"lengths lie in 1 to {count}, got {chosen}")
    return torch.tensor(chosen, device=tokens.indices.device)
