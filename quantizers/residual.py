"""Residual: quantizers in a row, each on what the ones before left over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .base import Quantized, Quantizer
from .copies import copies
from .vq import VQ

__all__ = ["Residual"]


class Residual(Quantizer):
    """Residual quantization: level l quantizes what levels 0 to l - 1 left over (arXiv 2107.03312, Alg. 1).

        r_0 = z,    r_{l+1} = r_l - q_l(r_l),    latents = q_0 + q_1 + ...
        loss = mean or sum over levels of their losses, each in terms of its own r_l

    Indices (B, N, Q) hold the columns of level 0, then of level 1, ...; the columns of the first k levels alone are
    decodable. Residuals are float32: with bf16 latents 7 to 34 % of the codes of deep levels flip.

    What reaches z while training depends on `gradient`. Measured over Q levels with straight-through:

    - "once": levels estimate nothing, and one estimate stands over the sum: d latents / d z is exactly 1 times the
      identity for every Q. Residuals subtract detached codes, so that the commitment loss of every level reaches z
      (audiocraft, Mimi: norms of 0.066, 0.056, 0.049, 0.043 for four levels). Parameters behind the choice of codes,
      such as `Projected`'s W_out, still learn from the output; those in front of it, such as its W_in, from the levels'
      losses alone: with levels that have none, project around the whole (`Projected(Residual(...), dim)`).
    - "chained": levels estimate, residuals subtract their outputs with the gradient (EnCodec, DAC, SNAC). With the
      identity of straight-through, r_1 and all that follow carry no gradient at all, so that of the commitment losses
      only level 0's reaches z (EnCodec's fault: 0.066, 0, 0, 0). d latents / d z is 1; 0.87 through DAC's projections.
    - "per_level": levels estimate, residuals subtract detached outputs (vector-quantize-pytorch): d latents / d z is Q
      times the identity, exactly 2, 4, 8, 16 for as many levels; with the rotation trick 0.13 at 8 levels.

    Quantizer dropout keeps, for a share of the items of a training batch, only a random number of first levels (DAC,
    SoundStream). A level that is dropped for an item adds nothing to its latents, losses and statistics: losses average
    over all items, with zeros for the dropped ones. It runs nevertheless and its indices are returned.

    Args:
        quantizer: one quantizer, used as level 0 and copied for the others, which draw parameters of their own; or a
            sequence of quantizers of one width, whose codebooks may differ in size. Under "once" the levels' own
            `estimator` becomes "none", and theirs before that is this quantizer's.
        num_quantizers: number of levels; may be left out for a sequence.
        shared: let all levels be the one quantizer. Moving averages and dead codes of a shared `VQ` take in the vectors
            of all levels as one step, and k-means starts it from those of level 0.
        gradient: see above.
        reduce: of the levels' losses and parts, "mean" or "sum"; a part that a level does not have counts 0.
        quantize_dropout: probability of each item to lose levels.
        dropout_min: levels that every item keeps; the number kept is uniform from here to all.
        unquantized: probability of each item of a training batch to pass as it is; codes and losses are as ever (Mimi,
            arXiv 2410.00037, Sec. 3.3.2). Stacks side by side draw each for itself.
        taps: depths whose partial sums stand side by side in the latents, in place of the full sum alone: (2, 4) gives
            q_0 + q_1 and q_0 + ... + q_3 in 2 D channels, each with its own estimate (EvoTok).
        reference_bugs: drop as DAC does: levels of the first int(B * quantize_dropout) items, of none at batch 1.

    Attributes:
        dim: D, or len(taps) * D.
        num_quantizers: number of levels.

    Raises:
        ValueError: no level, levels of different widths or estimators, levels without codebooks, or an option out of
            range.
    """

    prefixes = True

    def __init__(
        self,
        quantizer: Quantizer | Sequence[Quantizer],
        num_quantizers: int | None = None,
        *,
        shared: bool = False,
        gradient: Literal["once", "chained", "per_level"] = "once",
        reduce: Literal["mean", "sum"] = "mean",
        quantize_dropout: float = 0.0,
        dropout_min: int = 1,
        unquantized: float = 0.0,
        taps: Sequence[int] = (),
        reference_bugs: bool = False,
    ) -> None:
        super().__init__()
        levels = _levels(quantizer, num_quantizers, shared)
        count = len(levels)
        if gradient not in ("once", "chained", "per_level") or reduce not in ("mean", "sum"):
            raise ValueError(
                "Residual expects gradient 'once', 'chained' or 'per_level' and reduce 'mean' or 'sum', "
                f"got {gradient!r} and {reduce!r}"
            )
        if not 0 <= quantize_dropout <= 1 or not 1 <= dropout_min <= count:
            raise ValueError(
                f"Residual expects quantize_dropout in [0, 1] and dropout_min from 1 to its {count} levels, "
                f"got {quantize_dropout} and {dropout_min}"
            )
        if not 0 <= unquantized <= 1:
            raise ValueError(f"Residual expects unquantized in [0, 1], got {unquantized}; e.g. 0.5")
        if list(taps) != sorted(set(taps)) or not all(1 <= tap <= count for tap in taps):
            raise ValueError(f"Residual expects taps to ascend from 1 to its {count} levels, got {list(taps)}")
        self.taps = tuple(taps) or (count,)
        self.dim = len(self.taps) * levels[0].dim
        self.num_quantizers = count
        self.codebook_sizes = tuple(size for level in levels for size in level.codebook_sizes)
        self.shared = shared
        self.gradient = gradient
        self.reduce = reduce
        self.quantize_dropout = quantize_dropout
        self.dropout_min = dropout_min
        self.unquantized = unquantized
        self.reference_bugs = reference_bugs
        self.levels = nn.ModuleList(levels[:1] if shared else levels)
        self._estimator = levels[0].estimator
        if gradient == "once":
            self._set_levels("none")
        for module in self.levels.modules():
            if isinstance(module, Quantizer):
                module._blanks_padding = False  # done here once; dropped items are masked, yet have codes

    @property
    def input_dim(self) -> int:
        """Width D of the levels."""
        return self._stack()[0].input_dim

    @property
    def estimator(self) -> str:
        """Of the whole under "once", of every level otherwise."""
        return self._estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        self._estimator = self._check_estimator(name)
        if self.gradient != "once":
            self._set_levels(name)

    def forward(self, z: Tensor, mask: Tensor | None = None, codebooks: int | None = None) -> Quantized:
        """Quantize (B, N, D) to latents (B, N, dim) and indices (B, N, Q); parts are those of the levels, reduced.

        Args:
            z, mask: as for every quantizer.
            codebooks: columns to stop after, at the end of a level; None for all.
        """
        z = self._check_latents(z, mask)
        count = self.num_quantizers if codebooks is None else self._depth(codebooks)
        depths = self._draw_depths(z) if self.training and self.quantize_dropout > 0 else None
        bare = None
        if self.training and self.unquantized > 0:
            bare = (torch.rand(len(z), device=z.device) < self.unquantized)[:, None, None]
        books = self._shared_books() if self.training else []
        for book in books:
            book.postpone()
        residual, total, loss = z, z.new_zeros(()), z.new_zeros(())
        parts: dict[str, Tensor] = {}
        partial: dict[int, Tensor] = {}
        columns = []
        for depth, level in enumerate(self._stack()[:count]):
            counted, share = _count(z, mask, None if depths is None else depths > depth)
            found = level(residual, counted)
            codes = found.latents
            residual = residual - (codes if self.gradient == "chained" else codes.detach())
            if depths is not None:
                codes = codes.masked_fill((depths <= depth)[:, None, None], 0)
            total = codes if depth == 0 else total + codes
            if depth + 1 in self.taps or depth + 1 == count:
                partial[depth + 1] = self._estimate(z, total) if self.gradient == "once" else total
                if bare is not None:
                    partial[depth + 1] = torch.where(bare, z, partial[depth + 1])
            columns.append(found.indices)
            loss = loss + share * found.loss
            for name, part in found.parts.items():
                parts[name] = parts[name] + share * part if name in parts else share * part
        for book in books:
            book.settle()
        if self.reduce == "mean":
            loss = loss / count
            parts = {name: part / count for name, part in parts.items()}
        taps = tuple(min(tap, count) for tap in self.taps)
        return Quantized(_side_by_side(partial, taps), torch.cat(columns, dim=-1), loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of indices (B, N, Q), or of the columns of the first levels alone.

        With fewer levels than a tap is deep, that tap gives the sum of those there are.

        Raises:
            ValueError: wrong shape, dtype or range, or columns that end within a level.
        """
        ends = self._ends()
        known = indices.ndim == 3 and indices.shape[-1] in ends
        count = ends.index(indices.shape[-1]) + 1 if known else len(ends)
        indices = self._check_indices(indices, self.codebook_sizes[: ends[count - 1]])
        taps = tuple(min(tap, count) for tap in self.taps)
        total = torch.empty(0)
        partial: dict[int, Tensor] = {}
        for depth, level in enumerate(self._stack()[:count]):
            columns = indices[..., ends[depth] - len(level.codebook_sizes) : ends[depth]]
            codes = level.lookup(columns)
            total = codes if depth == 0 else total + codes
            if depth + 1 in taps:
                partial[depth + 1] = total
        return _side_by_side(partial, taps)

    def _ends(self) -> list[int]:
        """Columns up to the end of each level."""
        return list(accumulate(len(level.codebook_sizes) for level in self._stack()))

    def _depth(self, codebooks: int) -> int:
        """Levels that these first columns are."""
        if codebooks not in (ends := self._ends()):
            raise ValueError(f"Residual can stop after {', '.join(map(str, ends))} codebooks, got {codebooks}")
        return ends.index(codebooks) + 1

    def _stack(self) -> list[Quantizer]:
        """The level of every depth."""
        levels = [cast(Quantizer, level) for level in self.levels]
        return levels * self.num_quantizers if self.shared else levels

    def _set_levels(self, estimator: str) -> None:
        for level in self._stack():
            level.estimator = estimator

    def _shared_books(self) -> list[VQ]:
        """Codebooks that several levels of one step use, and that may change between steps only."""
        return [module for module in self.levels.modules() if isinstance(module, VQ)] if self.shared else []

    def _draw_depths(self, z: Tensor) -> Tensor:
        """Levels (B,) that each item keeps in this step."""
        items = len(z)
        drawn = torch.randint(self.dropout_min, self.num_quantizers + 1, (items,), device=z.device)
        if self.reference_bugs:
            chosen = torch.arange(1, items + 1, device=z.device) <= items * self.quantize_dropout
        else:
            chosen = torch.rand(items, device=z.device) < self.quantize_dropout
        return torch.where(chosen, drawn, self.num_quantizers)

    def extra_repr(self) -> str:
        return (
            f"num_quantizers={self.num_quantizers}, shared={self.shared}, gradient={self.gradient!r}, "
            f"reduce={self.reduce!r}, quantize_dropout={self.quantize_dropout}, taps={list(self.taps)}"
        )


def _levels(quantizer: Quantizer | Sequence[Quantizer], count: int | None, shared: bool) -> list[Quantizer]:
    if isinstance(quantizer, Quantizer):
        if count is None or count < 1:
            raise ValueError(f"Residual expects num_quantizers >= 1 for one quantizer, got {count}; e.g. 8")
        levels = [quantizer] * count if shared else copies(quantizer, count)
    else:
        levels = list(quantizer)
        if not levels or count not in (None, len(levels)) or shared:
            raise ValueError(
                f"Residual got {len(levels)} quantizers, num_quantizers={count} and shared={shared}; a sequence needs "
                "at least one, their number or none, and shared=False"
            )
    dims = [(level.input_dim, level.dim) for level in levels]
    if set(dims) != {(levels[0].dim, levels[0].dim)}:
        raise ValueError(
            f"Residual expects levels of one width, the same in and out, got {dims}; wrap them in Projected(level, dim)"
        )
    if not all(level.codebook_sizes for level in levels):
        raise ValueError("Residual expects levels with codebooks, got a continuous one; nothing would be left over")
    if len({level.estimator for level in levels}) > 1:
        raise ValueError(f"Residual expects one estimator, got {[level.estimator for level in levels]}; set them equal")
    return levels


def _count(z: Tensor, mask: Tensor | None, kept: Tensor | None) -> tuple[Tensor | None, Tensor | float]:
    """Positions (B, N) that count at a level kept by the items `kept` (B,), and their share of the real ones."""
    if kept is None:
        return mask, 1.0
    real = z.new_ones(z.shape[:2], dtype=torch.bool) if mask is None else mask
    counted = real & kept[:, None]
    return counted, counted.sum() / real.sum().clamp_min(1)


def _side_by_side(partial: dict[int, Tensor], taps: tuple[int, ...]) -> Tensor:
    return partial[taps[0]] if len(taps) == 1 else torch.cat([partial[tap] for tap in taps], dim=-1)
