"""MultiRate: a residual stack whose levels run at rates of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .base import Quantized, Quantizer
from .copies import copies

__all__ = ["MultiRate"]


class MultiRate(Quantizer):
    """Residual quantization in time, the first levels at a fraction of the rate (SNAC, arXiv 2410.14411).

        r_1 = z,    h_l = repeat(q_l(average(r_l, stride_l)), stride_l),    r_(l+1) = r_l - h_l
        latents = h_1 + h_2 + ...,    loss = mean or sum over levels of their losses

    Averages run over `stride_l` positions in a row, the real ones among them; a group without any counts in nothing.
    SNAC's levels are `Projected(VQ(8, 4096, metric="cosine"), dim, weight_norm=True)` at strides (4, 2, 1) or
    (8, 4, 2, 1).

    What reaches z while training depends on `gradient`, as in `Residual`: "once", levels estimate nothing and one
    estimate stands over the sum; "chained", levels estimate and residuals subtract their outputs with the gradient
    (SNAC).

    Args:
        quantizer: one quantizer, used as the first level and copied for the others, which draw parameters of their
            own; or a sequence, one a stride, of one width and with codebooks of the same sizes. Under "once" the
            levels' `estimator` becomes "none", and theirs before that is this quantizer's.
        strides: positions that share a code, level by level, none larger than the one before.
        gradient: see above.
        reduce: of the levels' losses and parts, "mean" or "sum".

    Attributes:
        strides: as given.

    Raises:
        ValueError: no stride, one that grows, other than one quantizer a stride, different widths, codebook sizes or
            estimators, levels without codes, or an unknown option.
    """

    def __init__(
        self,
        quantizer: Quantizer | Sequence[Quantizer],
        strides: Sequence[int],
        *,
        gradient: Literal["once", "chained"] = "once",
        reduce: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        if not strides or min(strides) < 1 or sorted(strides, reverse=True) != list(strides):
            raise ValueError(
                f"MultiRate expects strides of at least 1 that fall from coarse to fine, e.g. (4, 2, 1), got {strides}"
            )
        if gradient not in ("once", "chained") or reduce not in ("mean", "sum"):
            raise ValueError(
                "MultiRate expects gradient 'once' or 'chained' and reduce 'mean' or 'sum', "
                f"got {gradient!r} and {reduce!r}"
            )
        levels = copies(quantizer, len(strides)) if isinstance(quantizer, Quantizer) else list(quantizer)
        _check_levels(levels, len(strides))
        self.dim = levels[0].dim
        self.codebook_sizes = levels[0].codebook_sizes
        self.gradient = gradient
        self.reduce = reduce
        self.levels = nn.ModuleList(levels)
        self._estimator = levels[0].estimator
        if gradient == "once":
            self._set_levels("none")

    @property
    def estimator(self) -> str:
        """Of the whole under "once", of every level under "chained"."""
        return self._estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        self._estimator = self._check_estimator(name)
        if self.gradient == "chained":
            self._set_levels(name)

    def tokens_per_level(self, positions: int) -> tuple[int, ...]:
        """Tokens of each level for N positions, as `TokenizerSpec.scales` wants them: (N / 4, N / 2, N).

        Raises:
            ValueError: N is not a multiple of every stride.
        """
        if any(positions % stride for stride in self.strides):
            raise ValueError(
                f"MultiRate expects a number of positions divisible by its strides {self.strides}, got {positions}; "
                f"pad to a multiple of {math.lcm(*self.strides)} and pass a mask"
            )
        return tuple(positions // stride for stride in self.strides)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim) into indices (B, N / stride_1 + N / stride_2 + ..., Q), coarse to fine.

        Parts are those of the levels, reduced.

        Raises:
            ValueError: also when N is not a multiple of every stride.
        """
        z = self._check_latents(z, mask)
        self.tokens_per_level(z.shape[1])
        real = None if mask is None else mask[..., None].float()
        rest, total = z, torch.zeros_like(z)
        found = []
        for level, stride in zip(self.levels, self.strides, strict=True):
            found.append(level(*_average(rest, real, stride)))
            step = found[-1].latents.repeat_interleave(stride, dim=1)
            total = total + step
            rest = rest - (step if self.gradient == "chained" else step.detach())
        share = 1 / len(found) if self.reduce == "mean" else 1.0
        names = dict.fromkeys(name for level in found for name in level.parts)
        nothing = z.new_zeros(())
        parts = {name: share * torch.stack([level.parts.get(name, nothing) for level in found]).sum() for name in names}
        return Quantized(
            self._estimate(z, total) if self.gradient == "once" else total,
            torch.cat([level.indices for level in found], dim=1),
            share * torch.stack([level.loss for level in found]).sum(),
            parts,
        )

    def lookup(self, indices: Tensor, levels: int | None = None) -> Tensor:
        """Latents (B, N, dim) of the indices (B, M, Q) of all levels, or of the first few.

        Args:
            indices: as `forward` returns them.
            levels: how many levels, the coarsest first, the indices hold; None: all.

        Raises:
            ValueError: also when M positions cannot be split over the levels.
        """
        indices = self._check_indices(indices)
        if levels is not None and not 1 <= levels <= len(self.strides):
            raise ValueError(f"MultiRate expects levels from 1 to {len(self.strides)}, got {levels}")
        strides = self.strides[:levels]
        block = math.lcm(*strides)
        unit = sum(block // stride for stride in strides)
        if indices.shape[1] % unit:
            raise ValueError(
                f"MultiRate expects a multiple of {unit} indices for strides {strides}, got {indices.shape[1]}; the "
                "first levels alone need lookup(indices, levels=...)"
            )
        positions = indices.shape[1] // unit * block
        split = indices.split([positions // stride for stride in strides], dim=1)
        total = torch.zeros((), device=indices.device)
        for level, stride, part in zip(self.levels, strides, split, strict=False):
            total = total + cast(Quantizer, level).lookup(part).repeat_interleave(stride, dim=1)
        return total

    def _set_levels(self, estimator: str) -> None:
        for level in self.levels:
            cast(Quantizer, level).estimator = estimator

    def extra_repr(self) -> str:
        return f"strides={self.strides}, gradient={self.gradient!r}, reduce={self.reduce!r}"


def _average(x: Tensor, real: Tensor | None, stride: int) -> tuple[Tensor, Tensor | None]:
    """Means (B, N / stride, D) of x over its real positions, and which of them (B, N / stride) have one."""
    groups = (x.shape[1] // stride, stride)
    if real is None:
        return x.unflatten(1, groups).mean(2), None
    counts = real.unflatten(1, groups).sum(2)
    return (x * real).unflatten(1, groups).sum(2) / counts.clamp_min(1), counts[..., 0] > 0


def _check_levels(levels: list[Quantizer], count: int) -> None:
    if len(levels) != count:
        raise ValueError(f"MultiRate expects one quantizer a stride, got {len(levels)} for {count} strides")
    dims = {(level.input_dim, level.dim) for level in levels}
    if dims != {(levels[0].dim, levels[0].dim)} or not levels[0].codebook_sizes:
        raise ValueError(
            f"MultiRate expects levels with codes that return the width they read, got (in, out) {sorted(dims)}; wrap "
            "them in Projected(level, dim)"
        )
    sizes, estimators = {level.codebook_sizes for level in levels}, {level.estimator for level in levels}
    if len(sizes) > 1 or len(estimators) > 1:
        raise ValueError(
            "MultiRate puts the codes of all levels into the same columns, and expects one set of codebook sizes and "
            f"one estimator, got {sorted(sizes)} and {sorted(estimators)}"
        )
