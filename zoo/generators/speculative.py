"""Several ids a pass: drafts of a whole window, judged at once (speculative Jacobi decoding, arXiv 2410.01699)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.generators.sampling import draw, probabilities, uniform
from zoo.generators.stepping import Stepper

if TYPE_CHECKING:
    from quantizers import Quantizer

__all__ = ["CodeGroups", "Speculated", "speculate"]


@dataclass(frozen=True, slots=True, eq=False)
class CodeGroups:
    """Codes that pass for each other when a draft is judged (grouped speculative decoding, arXiv 2508.07747).

    The group of a code are those within a window of the target's ranking that are about as likely and look about the
    same. Window and thresholds are the original's defaults; how they work together is our reading of them.

    Attributes:
        codebook: (K, D) float, codes as the decoder sees them; lengths do not count.
        window: ranks that a group may span; 1 leaves every code alone, and the result exact.
        gap: largest difference between chances under the target.
        distance: largest distance between codes brought to length 1.
    """

    codebook: Tensor
    window: int = 14
    gap: float = 0.15
    distance: float = 0.5

    def __post_init__(self) -> None:
        if self.codebook.ndim != 2 or self.window < 1:
            raise ValueError(
                f"groups need a codebook (K, D) and a window of at least 1, got {tuple(self.codebook.shape)} and "
                f"{self.window}"
            )
        object.__setattr__(self, "codebook", F.normalize(self.codebook.float(), dim=-1))

    @classmethod
    def of(cls, quantizer: Quantizer, *, window: int = 14, gap: float = 0.15, distance: float = 0.5) -> Self:
        """The groups of a tokenizer's codes.

        Raises:
            ValueError: the quantizer has several codebooks.
        """
        sizes = quantizer.codebook_sizes
        if len(sizes) != 1:
            raise ValueError(f"codes have groups in one codebook, this quantizer has {len(sizes)}")
        device = next((tensor.device for tensor in quantizer.state_dict().values()), torch.device("cpu"))
        with torch.no_grad():
            codes = quantizer.lookup(torch.arange(sizes[0], device=device)[:, None, None])
        return cls(codes[:, 0], window, gap, distance)

    def masses(self, target: Tensor, draft: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Chances of the groups of ids (...) under target and draft (..., K): two (...)."""
        ranking = target.sort(dim=-1, descending=True, stable=True).indices
        own = (ranking == ids[..., None]).int().argmax(-1, keepdim=True)
        ranks = own + torch.arange(self.window, device=ids.device) - self.window // 2
        inside = (ranks >= 0) & (ranks < target.shape[-1])
        others = ranking.gather(-1, ranks.clamp(0, target.shape[-1] - 1))
        likely = target.gather(-1, others)
        near = torch.linalg.vector_norm(self.codebook[others] - self.codebook[ids][..., None, :], dim=-1)
        alike = (likely - target.gather(-1, ids[..., None])).abs() <= self.gap
        kept = inside & alike & (near <= self.distance)
        return (likely * kept).sum(-1), (draft.gather(-1, others) * kept).sum(-1)


@dataclass(frozen=True, slots=True)
class Speculated:
    """What a speculative run drew.

    Attributes:
        ids: (B, N) int64.
        passes: calls of the network; plain sampling takes N.
    """

    ids: Tensor
    passes: int


@torch.no_grad()
def speculate(
    stepper: Stepper,
    length: int,
    *,
    window: int = 16,
    groups: CodeGroups | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Speculated:
    """Draw `length` ids with fewer passes than ids.

    A pass reads drafts and tells the target's chances p of each. A draft that was drawn with chance q is kept with
    probability min(1, p / q), or that of the two chances of its group; the first that fails is drawn anew from
    max(0, p - q), and all behind it from their p, which are the q of the next pass. Without groups the result is
    distributed as plain sampling is. Items that are ahead of the slowest wait for it.

    Args:
        stepper: has read nothing yet.
        length: N.
        window: ids read in a pass.
        groups: codes that pass for each other; None for exact sampling.
        temperature, top_k, top_p, generator: as in `sample`.

    Raises:
        ValueError: the window is empty, or the stepper has read something.
    """
    if window < 1 or stepper.length:
        raise ValueError(f"expected a window of at least 1 and a new stepper, got {window} and {stepper.length} ids")

    def drawn(chances: Tensor) -> Tensor:
        return draw(chances, generator=generator)

    last = probabilities(stepper.first, temperature, top_k, top_p)
    batch, size = last.shape
    ids = torch.zeros(batch, length, dtype=torch.int64, device=last.device)
    ids[:, 0] = drawn(last)
    known = torch.ones(batch, dtype=torch.int64, device=last.device)  # ids of each item that stay
    draft = last.new_empty(batch, 0, size)  # chances that the ids behind the one at `start` were drawn with
    start, passes = 0, 1
    while start < length - 1:
        end = min(start + window, length - 1)
        count = end - start
        missing = count - 1 - draft.shape[1]
        if missing > 0:
            guess = last[:, None].expand(-1, missing, -1)
            ids[:, end - missing : end] = drawn(guess)
            draft = torch.cat([draft, guess], dim=1)
        target = probabilities(stepper.extend(ids[:, start:end]), temperature, top_k, top_p)
        passes += 1
        places = torch.arange(start + 1, end + 1, device=ids.device)
        fixed = places < known[:, None]
        kept = accepted(target[:, :-1], draft[:, : count - 1], ids[:, start + 1 : end], groups, generator)
        stop = (kept | fixed[:, :-1]).cumprod(-1).sum(-1)  # number of the first draft that failed, or count - 1
        rows = torch.arange(batch, device=ids.device)
        judged = target[rows, stop]
        if count > 1:
            before = draft[rows, stop.clamp_max(count - 2)] * (stop < count - 1)[:, None]
            rest = (judged - before).clamp_min(0)
            judged = torch.where(rest.sum(-1, keepdim=True) > 0, rest, judged)
        fresh = drawn(target).scatter(1, stop[:, None], drawn(judged)[:, None])
        behind = (torch.arange(count, device=ids.device) >= stop[:, None]) & ~fixed
        ids[:, start + 1 : end + 1] = torch.where(behind, fresh, ids[:, start + 1 : end + 1])
        known = torch.maximum(known, start + 2 + stop)
        moved = int(known.min()) - 1 - start
        draft, last, start = target[:, moved:], target[:, -1], start + moved
        stepper.rewind(start)
    return Speculated(ids, passes)


def accepted(
    target: Tensor, draft: Tensor, ids: Tensor, groups: CodeGroups | None, generator: torch.Generator | None
) -> Tensor:
    """(B, n) bool, which drafted ids (B, n) stay, given both chances (B, n, K)."""
    if groups is None:
        after, before = (chances.gather(-1, ids[..., None])[..., 0] for chances in (target, draft))
    else:
        after, before = groups.masses(target, draft, ids)
    return uniform(ids.shape, target, generator=generator) * before < after
