"""One id after the other: what plain sampling and speculative decoding need of an autoregressive generator."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.generators.sampling import sample
from zoo.generators.schedules import GuidanceSchedule, guide

__all__ = ["Stepper", "complete"]


class Stepper:
    """B sequences that grow by ids; keys and values of what was read are kept, condition and guidance are inside.

    A subclass reads the condition in `__init__`, sets `first`, and defines `read`. Under guidance there are 2 B rows:
    the items, then the items without condition.

    Args:
        length: N, ids of a whole item.
        guidance: None for none.

    Attributes:
        first: (B, K) float32 logits of the first id.
        length: ids read so far, the same of all items.
    """

    first: Tensor

    def __init__(self, length: int, guidance: GuidanceSchedule | None) -> None:
        self.total, self.guidance, self.length = length, guidance, 0

    def read(self, ids: Tensor) -> Tensor:
        """Ids (R, n) that stand behind those read -> logits (R, n, K) of the id behind each."""
        raise NotImplementedError(f"{type(self).__name__} must define read")

    @torch.no_grad()
    def extend(self, ids: Tensor) -> Tensor:
        """Read ids (B, n), n at least 1 -> guided logits (B, n, K) of the id behind each."""
        logits = self.guided(self.read(ids if self.guidance is None else ids.repeat(2, 1)), self.length + 1)
        self.length += ids.shape[1]
        return logits

    def guided(self, logits: Tensor, number: int) -> Tensor:
        """Logits (R, n, K) of the ids from `number` on -> (B, n, K) float32."""
        logits = logits.float()
        if self.guidance is None:
            return logits
        scales = [self.guidance.at((number + place) / self.total) for place in range(logits.shape[1])]
        told, free = logits.chunk(2)
        return guide(told, free, torch.tensor(scales, device=logits.device)[:, None])

    def rewind(self, length: int) -> None:
        """Forget all ids but the first `length`."""
        if not 0 <= length <= self.length:
            raise ValueError(f"{self.length} ids have been read, cannot go back to {length}")
        self.length = length


def complete(
    stepper: Stepper,
    ids: Tensor,
    until: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw ids until there are `until`.

    Args:
        stepper: has read nothing, or a beginning of `ids`; reads all of the result but its last id.
        ids: (B, n) int64, n may be 0.
        until: length of the result.
        temperature, top_k, top_p, generator: as in `sample`.

    Returns:
        (B, until) int64, which begins with `ids`.
    """
    stepper.rewind(min(stepper.length, max(ids.shape[1] - 1, 0)))
    while ids.shape[1] < until:
        logits = stepper.extend(ids[:, stepper.length :])[:, -1] if ids.shape[1] else stepper.first
        new = sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        ids = torch.cat([ids, new[:, None]], dim=1)
    return ids
