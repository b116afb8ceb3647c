"""VVQ: a Gaussian bottleneck in front of residual quantization over scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import Quantized, Quantizer
from .distributed import all_reduce_sum
from .kl import KL
from .multiscale import MultiScaleVQ

__all__ = ["VVQ"]

EPSILON = 1e-6


class VVQ(MultiScaleVQ):
    """Variational vector quantization (VAT, arXiv 2412.02202): what is quantized over scales is a draw.

        mean, logvar = split(z),    draw = mean + deviation * exp(logvar / 2) * noise   (training)   or   mean   (eval)
        latents = MultiScaleVQ(draw),    loss = weight * kl(draw | N(0, 1)) + the loss of MultiScaleVQ

    The KL term keeps what is quantized near N(0, 1), smooth along the tokens, which is what lets coarse scales say
    something about fine ones. It is summed over N and D, as in `KL`. The paper's code is not public: the order of the
    steps is the paper's, the conventions are those of this library's parts.

    Args:
        quantizer: shared by all scales; see `MultiScaleVQ`.
        scales: see there.
        weight: of the KL term.
        deviation: of the draw where logvar is 0. A small one starts as a plain autoencoder.
        standardize: rate at which running means and variances of every channel of every token follow the batches, with
            which the means are brought to N(0, 1): what is the same for all inputs takes no codes, and means cannot
            shrink to where all of them round to one code. 0 for none.
        ndim: axes that N stands for; the paper's tokens form a line.
        options: of `MultiScaleVQ`.

    Raises:
        ValueError: deviation or standardize out of range, or whatever `MultiScaleVQ` refuses.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        scales: Sequence[int | tuple[int, int]],
        *,
        weight: float = 1e-6,
        deviation: float = 1.0,
        standardize: float = 0.0,
        ndim: Literal[1, 2] = 1,
        **options: Any,
    ) -> None:
        super().__init__(quantizer, scales, ndim=ndim, **options)
        if not deviation > 0 or not 0 <= standardize <= 1:
            raise ValueError(
                f"VVQ expects a deviation above 0 and standardize in [0, 1], got {deviation} and {standardize}"
            )
        self.posterior = KL(self.dim, weight=weight)
        self.deviation = deviation
        self.standard = Standardize(self.scales[-1], self.dim, standardize) if standardize else None

    @property
    def input_dim(self) -> int:
        """Means and log-variances: 2 * dim."""
        return 2 * self.dim

    def forward(self, z: Tensor, mask: Tensor | None = None, *, generator: torch.Generator | None = None) -> Quantized:
        """Quantize a draw from (B, N, 2 * dim) into indices (B, sum of scales, Q), coarse to fine.

        Args:
            z: means and log-variances, concatenated along the last axis.
            mask: (B, N) bool, False for padding.
            generator: source of the training noise; the global one by default.

        Returns:
            As `MultiScaleVQ`; parts also hold "kl".

        Raises:
            ValueError: also when N is not the size of the last scale.
        """
        mean, logvar = self._check_latents(z, mask).chunk(2, dim=-1)
        if self.standard is not None:
            mean = self.standard(mean, mask)
        moments = torch.cat([mean, logvar + 2 * math.log(self.deviation)], dim=-1)
        draw = self.posterior(moments, mask, generator=generator)
        found = self._forward(draw.latents, mask)
        return Quantized(found.latents, found.indices, found.loss + draw.loss, found.parts | draw.parts)


class Standardize(nn.Module):
    """(x - mean) / sqrt(variance) with statistics that follow the batches, of every channel of every position.

    Gradients take the statistics as constants, and training uses the same ones as evaluation, so that small batches do
    no harm. The first batches count alike, until each counts `rate`.

    Args:
        length: N positions.
        dim: channels.
        rate: share of a batch in the statistics, in (0, 1].
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, length: int, dim: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros(length, dim))
        self.register_buffer("variance", torch.ones(length, dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); positions where the mask (B, N) is False are in no statistic."""
        if x.shape[1] == 0:
            return x
        if self.training:
            self._follow(x.detach(), mask)
        return (x - self.mean) * (self.variance + EPSILON).rsqrt()

    @torch.no_grad()
    def _follow(self, x: Tensor, mask: Tensor | None) -> None:
        real = x.new_ones(*x.shape[:2], 1) if mask is None else mask[..., None].to(x.dtype)
        count = all_reduce_sum(real.sum(0))
        self.batches += 1
        rate = (1 / self.batches.float()).clamp_min(self.rate) * (count > 0)
        self.mean.lerp_(all_reduce_sum((x * real).sum(0)) / count.clamp_min(1), rate)
        self.variance.lerp_(all_reduce_sum(((x - self.mean).square() * real).sum(0)) / count.clamp_min(1), rate)
