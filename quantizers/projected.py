"""Projected: any quantizer in a space of another width, low-dimensional codes above all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer

__all__ = ["Projected"]


class Projected(Quantizer):
    """Linear maps in front of and behind a quantizer: the factorized codes of ViT-VQGAN (arXiv 2110.04627) and DAC.

        latents = W_out q(W_in z + b_in) + b_out

    Losses are the inner quantizer's, in its own space. With estimator "none" the output trains W_out alone, and W_in
    learns from the inner losses only.

    Args:
        quantizer: works on `quantizer.input_dim` channels and returns `quantizer.dim`.
        dim: width of the latents read and returned.
        bias: add b_in and b_out.
        weight_norm: keep length and direction of the rows of W_in and W_out as parameters of their own, `weight_g` and
            `weight_v` (arXiv 1602.07868; DAC, SNAC).

    Raises:
        ValueError: dim < 1.
    """

    def __init__(self, quantizer: Quantizer, dim: int, *, bias: bool = True, weight_norm: bool = False) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Projected expects dim >= 1, got {dim}")
        linear = _NormedLinear if weight_norm else nn.Linear
        self.dim = dim
        self.codebook_sizes = quantizer.codebook_sizes
        self.quantizer = quantizer
        self.project_in = linear(dim, quantizer.input_dim, bias)
        self.project_out = linear(quantizer.dim, dim, bias)

    @property
    def prefixes(self) -> bool:  # type: ignore[override]
        """The inner quantizer's."""
        return self.quantizer.prefixes

    @property
    def estimator(self) -> str:
        """The inner quantizer's."""
        return self.quantizer.estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        self.quantizer.estimator = self._check_estimator(name)

    def forward(self, z: Tensor, mask: Tensor | None = None, codebooks: int | None = None) -> Quantized:
        """Quantize (B, N, dim); loss, parts and the meaning of `codebooks` are the inner quantizer's."""
        z = self._check_latents(z, mask)
        option = {} if codebooks is None else {"codebooks": codebooks}
        with torch.autocast(z.device.type, enabled=False):
            found = self.quantizer(self.project_in(z), mask, **option)
            return Quantized(self.project_out(found.latents), found.indices, found.loss, found.parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of the inner quantizer's indices."""
        codes = self.quantizer.lookup(indices)
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(codes)


class _NormedLinear(nn.Module):
    """x W^T + b with rows W = g v / |v|; torch's own parametrization cannot be pickled nor reset."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Linear`: U(-1, 1) / sqrt(in_features)."""
        bound = 1 / math.sqrt(self.weight_v.shape[1])
        with torch.no_grad():
            self.weight_v.uniform_(-bound, bound)
            self.weight_g.copy_(self.weight_v.norm(dim=1, keepdim=True))
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))
        return F.linear(x, weight, self.bias)
