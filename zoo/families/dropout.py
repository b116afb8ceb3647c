"""How many tokens of a code training keeps: one module of schedules for every family whose prefixes decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["NestedDropout", "visible"]

Schedule = Literal["uniform", "pow2", "uniform_pow2", "choices"]
Per = Literal["sample", "batch"]


@dataclass(frozen=True)
class NestedDropout:
    """Draws the lengths to which training cuts a code (nested dropout, arXiv 1402.0915).

    | published in | arguments |
    |---|---|
    | One-D-Piece, tail token drop (arXiv 2501.10064) | `schedule="uniform", per="batch"` |
    | FlexTok (arXiv 2502.13967) | `schedule="pow2"`, `"uniform_pow2"` or `"uniform"`, for each sample |
    | ResTok (arXiv 2601.03955) | `schedule="choices"`, 4, 8, ... 64 weighted 1, 2, ... 16, `full_probability=0.8` |

    Draws come from torch's global generator on the CPU, so that a seed gives the same lengths on every device and
    looking at them waits for none.

    Args:
        schedule: "uniform" is 1 to N. "pow2" is 1, 2, 4, ... below N, and N, each as likely. "uniform_pow2" rounds a
            uniform draw up to one of these. "choices" is a list.
        per: "sample" draws a length for each item, "batch" one for all of them.
        full_probability: chance that a draw keeps all N tokens without asking the schedule.
        choices: lengths to choose from, for "choices".
        weights: how often relative to each other, for "choices"; None for equally often.

    Raises:
        ValueError: an unknown name, a probability outside [0, 1], or choices and weights that do not fit.
    """

    schedule: Schedule = "uniform"
    per: Per = "sample"
    full_probability: float = 0.0
    choices: Sequence[int] | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule is one of {', '.join(get_args(Schedule))}, got {self.schedule!r}")
        if self.per not in get_args(Per):
            raise ValueError(f"per is sample or batch, got {self.per!r}")
        if not 0 <= self.full_probability <= 1:
            raise ValueError(f"full_probability lies in [0, 1], got {self.full_probability}")
        if (self.schedule == "choices") != (self.choices is not None):
            raise ValueError(f"choices belong to schedule='choices' and to no other; got {self.schedule!r}")
        if self.choices is not None and (not self.choices or min(self.choices) < 1):
            raise ValueError(f"choices are lengths of at least 1, got {list(self.choices)}")
        if self.weights is None:
            return
        if self.choices is None or len(self.weights) != len(self.choices):
            raise ValueError(f"one weight for each choice: got {list(self.weights)} for {self.choices}")
        if min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError(f"weights are at least 0, and one is above it; got {list(self.weights)}")

    def draw(self, batch: int, num_tokens: int) -> Tensor:
        """Lengths of a batch.

        Args:
            batch: B.
            num_tokens: N, the whole code.

        Returns:
            (B,) int64 in [1, N], on the CPU.

        Raises:
            ValueError: a choice is longer than the code.
        """
        count = 1 if self.per == "batch" else batch
        if self.schedule == "uniform":
            lengths = torch.randint(1, num_tokens + 1, (count,))
        else:
            lengths, weights = self._table(num_tokens)
            lengths = lengths[torch.multinomial(weights, count, replacement=True)]
        if self.full_probability > 0:
            lengths = torch.where(torch.rand(count) < self.full_probability, num_tokens, lengths)
        return lengths.expand(batch).clone()

    def probabilities(self, num_tokens: int) -> Tensor:
        """Chance of each length.

        Returns:
            (N,) float64 that sums to 1; entry k - 1 is that of length k.
        """
        chances = torch.zeros(num_tokens, dtype=torch.float64)
        lengths, weights = self._table(num_tokens)
        chances.index_add_(0, lengths - 1, weights / weights.sum() * (1 - self.full_probability))
        chances[-1] += self.full_probability
        return chances

    def _table(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Lengths (M,) int64 that the schedule knows and their weights (M,) float64."""
        if self.schedule == "uniform":
            lengths: Sequence[int] = range(1, num_tokens + 1)
        elif self.choices is None:
            lengths = [2**power for power in range((num_tokens - 1).bit_length())] + [num_tokens]
        else:
            lengths = self.choices
        if max(lengths) > num_tokens:
            raise ValueError(f"choices go up to {max(lengths)}, but the code has {num_tokens} tokens")
        weights: Sequence[float] = [1.0] * len(lengths) if self.weights is None else self.weights
        if self.schedule == "uniform_pow2":
            weights = [above - below for below, above in pairwise((0, *lengths))]
        return torch.tensor(list(lengths)), torch.tensor(list(weights), dtype=torch.float64)


def visible(latents: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Cut what no item uses, and ask for a mask only where items differ.

    Args:
        latents: (B, N, D).
        lengths: (B,) int64 in [1, N], or None for all; on the CPU they cost no synchronisation.

    Returns:
        latents (B, n, D), n the longest, and lengths (B,) on their device, None when all are n.
    """
    if lengths is None or not len(lengths):
        return latents, None
    shortest, longest = (int(bound) for bound in lengths.aminmax())
    latents = latents[:, :longest]
    return latents, None if shortest == longest else lengths.to(latents.device, non_blocking=True)
