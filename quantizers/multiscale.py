"""MultiScaleVQ: one quantizer at several resolutions, each adding what the coarser ones left over."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer, mean
from .phi import Phi, enlarge, nearest_tick, shrink
from .upkeep import align_once
from .vq import VQ

__all__ = ["MultiScaleVQ"]


class MultiScaleVQ(Quantizer):
    """Residual quantization over scales, the tokens of next-scale prediction (VAR, arXiv 2404.02905, Alg. 1 and 2).

    With r_1 = z, and for each scale s from coarse to fine, until the last one has the size of z:

        q_s = quantizer(shrink(r_s, scale s))
        h_s = phi_s(enlarge(q_s, last scale))        phi(x) = (1 - phi_ratio) x + phi_ratio conv(x)
        r_(s+1) = r_s - h_s,    f_s = h_1 + ... + h_s,    latents = f_S

        loss = mean over s of commitment * mean((sg[f_s] - z)^2) + codebook_loss * mean((f_s - sg[z])^2)
               + inner_loss * mean over s of the quantizer's own loss

    Shrinking averages over cells, enlarging is bicubic; along a line (`ndim=1`: VAT, arXiv 2412.02202, whose code is
    not public) it is linear. The codebook term trains the codes and the convolutions. Latents carry one estimate of the
    gradient, over the whole sum. Moving averages, k-means and dead codes of a VQ inside take the vectors of all scales
    together, once a step.

    At padding z, and what is left of z, are zero; a coarse cell is the average over its real positions, and one without
    any counts in nothing.

    Args:
        quantizer: shared by all scales, with dim = input_dim: a VQ as in VAR, an LFQ (BSQ), an FSQ, ... Its `estimator`
            becomes "none", and what that was before is this quantizer's.
        scales: sizes, coarse to fine, none shrinking: a side or a pair (h, w) of each grid for ndim=2, lengths for
            ndim=1. N of the latents is the size of the last.
        ndim: axes that N stands for, in raster order.
        phis: how many convolutions the scales share, each scale taking the one nearest to its place among them
            (`phi.nearest_tick`): 1 for all, `len(scales)` for one each, 0 for none (TokenFlow). None: VAR's 4, or one
            each of fewer scales.
        phi_ratio: share of the convolution in phi.
        commitment: weight of the term that draws z to the sums (VAR's beta).
        codebook_loss: weight of the term that draws the sums to z.
        inner_loss: weight of the quantizer's own loss; None: 0 for a VQ, whose terms the two above replace, and 1 for
            any other.
        scale_dropout: share of the training steps that leave out one scale, any but the coarsest (TokenFlow: 0.1). It
            adds nothing to latents, losses and statistics; its indices are those it would have had.

    Attributes:
        scales: tokens of each scale, as `TokenizerSpec.scales` wants them: (1, 4, 9, ...).
        grids: (h, w) of each scale; h = 1 for ndim=1.

    Raises:
        ValueError: scales are missing or shrink, the quantizer changes the width, or a number is out of range.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        scales: Sequence[int | tuple[int, int]],
        *,
        ndim: Literal[1, 2] = 2,
        phis: int | None = None,
        phi_ratio: float = 0.5,
        commitment: float = 0.25,
        codebook_loss: float = 1.0,
        inner_loss: float | None = None,
        scale_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.grids = _grids(scales, ndim)
        self.scales = tuple(math.prod(grid) for grid in self.grids)
        if quantizer.input_dim != quantizer.dim or not quantizer.codebook_sizes:
            raise ValueError(
                "MultiScaleVQ subtracts codes from latents, and needs a quantizer with codes that returns the width it "
                f"reads, got {type(quantizer).__name__} from {quantizer.input_dim} to {quantizer.dim} with codebooks "
                f"{quantizer.codebook_sizes}; put it into Projected"
            )
        phis = min(4, len(self.grids)) if phis is None else phis
        if phis < 0 or not 0 <= scale_dropout <= 1 or (scale_dropout and len(self.grids) == 1):
            raise ValueError(
                f"MultiScaleVQ expects phis >= 0 and scale_dropout in [0, 1], got {phis} and {scale_dropout}; "
                "the coarsest of the scales is never dropped, a single one neither"
            )
        self.estimator = quantizer.estimator
        quantizer.estimator = "none"
        for module in quantizer.modules():
            if isinstance(module, Quantizer):
                module._blanks_padding = False  # done here; a dropped scale is masked, yet has codes
        self.quantizer = quantizer
        self.dim = quantizer.dim
        self.codebook_sizes = quantizer.codebook_sizes
        self.phi = nn.ModuleList(Phi(self.dim, phi_ratio, self.grids[-1]) for _ in range(phis))
        self.commitment = commitment
        self.codebook_loss = codebook_loss
        self.inner_loss = float(not isinstance(quantizer, VQ)) if inner_loss is None else inner_loss
        self.scale_dropout = scale_dropout

    def with_scales(self, scales: Sequence[int | tuple[int, int]]) -> Self:
        """The same quantizer, parameters and buffers shared, for another list of scales: images of another size.

        Each scale takes the convolution nearest to its place in the new list, as VAR does for 512 pixels. The result is
        a view: what it learns, this one has learned.
        """
        other = copy.copy(self)
        other.grids = _grids(scales, self.ndim)
        other.scales = tuple(math.prod(grid) for grid in other.grids)
        return other

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim) into indices (B, sum of scales, Q), coarse to fine, each scale in raster order.

        Parts: "commitment" and "codebook", equal in value, and "inner" where its weight is not 0.

        Raises:
            ValueError: also when N is not the size of the last scale.
        """
        return self._forward(self._check_latents(z, mask), mask)

    def _forward(self, z: Tensor, mask: Tensor | None) -> Quantized:
        """`forward` of checked latents (B, N, dim)."""
        if z.shape[1] == 0:
            return self._nothing(z)
        if z.shape[1] != self.scales[-1]:
            raise ValueError(
                f"{type(self).__name__} expects latents (B, {self.scales[-1]}, {self.dim}) for the last of the scales "
                f"{self.grids}, got N = {z.shape[1]}; other sizes need other scales: with_scales()"
            )
        align_once(self)
        with torch.autocast(z.device.type, enabled=False):
            books = [module for module in self.quantizer.modules() if isinstance(module, VQ)] if self.training else []
            self._start(books, z, mask)
            for book in books:
                book.postpone()
            out = self._quantize(z, mask)
            for book in books:
                book.settle()
        return out

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of the codes of all scales, or of the coarsest ones alone: (B, M, Q) of whole scales.

        Raises:
            ValueError: also when M does not end with a scale.
        """
        sums = self._sums(indices)
        return self._to_rows(sums[-1] if sums else self._empty(indices))

    def partial_sums(self, indices: Tensor) -> list[Tensor]:
        """Latents (B, N, dim) after each scale that the indices (B, M, Q) hold: what prefixes of them look up."""
        return [self._to_rows(total) for total in self._sums(indices)]

    def teacher_forcing(self, indices: Tensor) -> Tensor:
        """Inputs of a next-scale generator: before each scale but the first, what the coarser ones give at its size.

        Args:
            indices: (B, M, Q) of all scales, or of the coarsest ones.

        Returns:
            (B, sum of scales - scales[0], dim); of k < S coarse scales, inputs up to that of scale k + 1.
        """
        inputs = [
            self._to_rows(shrink(total, grid)) for total, grid in zip(self._sums(indices), self.grids[1:], strict=False)
        ]
        empty = self._to_rows(self._empty(indices))[:, :0]
        return torch.cat([empty, *inputs], dim=1)

    def next_input(self, latents: Tensor | None, indices: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """One step of a next-scale generator: add a scale, and give what the following one starts from.

        Args:
            latents: (B, N, dim) sum of the scales before, None before the first.
            indices: (B, scales[scale], Q) of this scale alone.
            scale: which one, from 0.

        Returns:
            The sum (B, N, dim) with this scale, and the same at the size of the next, (B, scales[scale + 1], dim).
            After the last scale both are the sum.
        """
        if not 0 <= scale < len(self.scales) or indices.shape[1:2] != self.scales[scale : scale + 1]:
            raise ValueError(
                f"next_input expects indices (B, scales[scale], {len(self.codebook_sizes)}) with scales {self.scales}, "
                f"got {tuple(indices.shape)} for scale {scale}"
            )
        total = self._decode(self._check_indices(indices), scale)
        if latents is not None:
            total = self._to_grid(latents, self.grids[-1]) + total
        following = self.grids[min(scale + 1, len(self.grids) - 1)]
        return self._to_rows(total), self._to_rows(shrink(total, following))

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        target, real = self._to_grid(z, self.grids[-1]), self._real(mask)
        keep = self._kept(z.device)
        rest = target if self.inner_loss else target.detach()
        total = torch.zeros_like(target)
        indices, terms = [], []
        for scale in range(len(self.grids)):
            x, present = self._cells(rest, real, scale)
            if keep is not None:
                present = keep[scale].expand(x.shape[:2]) if present is None else present & keep[scale]
            found = self.quantizer(x, present)
            step = self._spread(self._codes(found), scale)
            if keep is not None:
                step = step * keep[scale]
            total = total + step
            rest = rest - step.detach()
            indices.append(found.indices)
            errors = (total.detach() - target).square(), (total - target.detach()).square()
            terms.append(torch.stack((*(_mean(error, real) for error in errors), found.loss)))
        losses = torch.stack(terms)
        losses = losses.mean(0) if keep is None else (losses * keep[:, None]).sum(0) / keep.sum()
        parts = dict(zip(("commitment", "codebook", "inner"), losses.unbind(), strict=True))
        loss = self.commitment * parts["commitment"] + self.codebook_loss * parts["codebook"]
        if self.inner_loss:
            loss = loss + self.inner_loss * parts["inner"]
        else:
            del parts["inner"]
        return Quantized(self._estimate(z, self._to_rows(total.detach())), torch.cat(indices, dim=1), loss, parts)

    def _start(self, books: list[VQ], z: Tensor, mask: Tensor | None) -> None:
        """k-means from the residuals of all scales that exact codes would leave: the first scale alone has too few."""
        if not any(book._may_start for book in books):
            return
        rest, real = self._to_grid(z.detach(), self.grids[-1]), self._real(mask)
        cells = []
        with torch.no_grad():
            for scale in range(len(self.grids)):
                cells.append(self._cells(rest, real, scale))
                rest = rest - self._spread(cells[-1][0], scale)
            rows, present = zip(*cells, strict=True)
            for book in books:
                book.postpone()  # without `settle`: nothing but the start happens
            self.quantizer(torch.cat(rows, dim=1), None if mask is None else torch.cat(present, dim=1))

    def _cells(self, x: Tensor, real: Tensor | None, scale: int) -> tuple[Tensor, Tensor | None]:
        """Rows (B, n, dim) of x at a scale, and which of them (B, n) hold a real position."""
        grid = self.grids[scale]
        if real is None:
            return self._to_rows(shrink(x, grid)), None
        share = shrink(real, grid)
        return self._to_rows(shrink(x * real, grid, share)), share.flatten(1) > 0

    def _spread(self, codes: Tensor, scale: int) -> Tensor:
        """h_s (B, dim, H, W) of the codes (B, n, dim) of a scale."""
        x = enlarge(self._to_grid(codes, self.grids[scale]), self.grids[-1])
        if len(self.phi):
            x = self.phi[nearest_tick(scale, len(self.grids), len(self.phi))](x)
        return x

    def _codes(self, found: Quantized) -> Tensor:
        """The chosen codes, with the gradient to the codebook, which a VQ keeps off its output."""
        if isinstance(self.quantizer, VQ):
            return F.embedding(found.indices[..., 0], self.quantizer.codes)
        return found.latents

    def _decode(self, indices: Tensor, scale: int) -> Tensor:
        codes = self.quantizer.lookup(indices)
        with torch.autocast(codes.device.type, enabled=False):
            return self._spread(codes, scale)

    def _sums(self, indices: Tensor) -> list[Tensor]:
        """f_s (B, dim, H, W) of each scale that indices hold."""
        indices = self._check_indices(indices)
        ends = list(accumulate(self.scales, initial=0))
        if indices.shape[1] not in ends:
            raise ValueError(
                f"{type(self).__name__} expects the indices of whole scales, {', '.join(map(str, ends[1:]))} "
                f"positions, got {indices.shape[1]}; codes of another size need with_scales()"
            )
        parts = indices.split(list(self.scales[: ends.index(indices.shape[1])]), dim=1)
        steps = (self._decode(part, scale) for scale, part in enumerate(parts))
        return list(accumulate(steps, initial=self._empty(indices)))[1:]

    def _kept(self, device: torch.device) -> Tensor | None:
        """(S,) bool, False for a scale left out of this step; None where none can be."""
        if not self.training or self.scale_dropout == 0:
            return None
        dropped = torch.randint(1, len(self.grids), (), device=device)
        happens = torch.rand((), device=device) < self.scale_dropout
        return (torch.arange(len(self.grids), device=device) != dropped) | ~happens

    def _real(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else self._to_grid(mask[..., None].float(), self.grids[-1])

    def _empty(self, indices: Tensor) -> Tensor:
        like = next((tensor for tensor in (*self.parameters(), *self.buffers()) if tensor.is_floating_point()), None)
        device = indices.device if like is None else like.device
        shape = (len(indices), *self.grids[-1], self.dim)
        return torch.zeros(shape, device=device).permute(0, 3, 1, 2)

    def _nothing(self, z: Tensor) -> Quantized:
        zero, names = z.sum(), ("commitment", "codebook", "inner")[: 2 + bool(self.inner_loss)]
        empty = z.new_empty(len(z), 0, len(self.codebook_sizes), dtype=torch.int64)
        return Quantized(self._estimate(z, z.detach()), empty, zero, dict.fromkeys(names, zero))

    @staticmethod
    def _to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h w, D) as (B, D, h, w), channels last in memory."""
        return x.mT.unflatten(2, grid)

    @staticmethod
    def _to_rows(x: Tensor) -> Tensor:
        """(B, D, h, w) as (B, h w, D), contiguous."""
        return x.flatten(2).mT.contiguous()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, scales={self.scales}, ndim={self.ndim}"


def _mean(x: Tensor, real: Tensor | None) -> Tensor:
    """Mean of x (B, D, H, W) at real positions (B, 1, H, W)."""
    return mean(x) if real is None else (x * real).sum() / (real.sum() * x.shape[1]).clamp_min(1)


def _grids(scales: Sequence[Any], ndim: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of each scale."""
    if ndim == 1:
        grids = tuple((1, length) for length in scales)
    elif ndim == 2:
        grids = tuple((size, size) if isinstance(size, int) else (size[0], size[1]) for size in scales)
    else:
        raise ValueError(f"MultiScaleVQ expects ndim of 1 or 2, got {ndim}")
    pairs = list(zip(((1, 1), *grids), grids, strict=False))
    if not grids or any(fine[axis] < coarse[axis] for coarse, fine in pairs for axis in range(2)):
        raise ValueError(
            f"MultiScaleVQ expects scales of at least 1 that grow from coarse to fine, got {list(scales)}; "
            "e.g. scales=(1, 2, 3, 4) for 4 x 4 latents"
        )
    return grids
