"""Projected: any quantizer in a space of another width, low-dimensional codes above all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalized

from .base import Quantized, Quantizer

__all__ = ["Projected"]


class Projected(Quantizer):
    """Linear maps in front of and behind a quantizer: the factorized codes of ViT-VQGAN (arXiv 2110.04627) and DAC.

        latents = W_out q(W_in z + b_in) + b_out

    Losses are the inner quantizer's, in its own space. With estimator "none" the output trains W_out alone.

    Args:
        quantizer: works on `quantizer.input_dim` channels and returns `quantizer.dim`.
        dim: width of the latents read and returned.
        bias: add b_in and b_out.
        weight_norm: keep length and direction of the rows of W_in and W_out as parameters of their own (DAC, SNAC).

    Raises:
        ValueError: dim < 1.
    """

    def __init__(self, quantizer: Quantizer, dim: int, *, bias: bool = True, weight_norm: bool = False) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Projected expects dim >= 1, got {dim}")
        self.dim = dim
        self.codebook_sizes = quantizer.codebook_sizes
        self.quantizer = quantizer
        self.project_in: nn.Module = nn.Linear(dim, quantizer.input_dim, bias)
        self.project_out: nn.Module = nn.Linear(quantizer.dim, dim, bias)
        if weight_norm:
            self.project_in, self.project_out = normalized(self.project_in), normalized(self.project_out)

    @property
    def estimator(self) -> str:  # type: ignore[override]
        """The inner quantizer's."""
        return self.quantizer.estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        self.quantizer.estimator = self._check_estimator(name)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim); loss and parts are the inner quantizer's."""
        z = self._check_latents(z, mask)
        with torch.autocast(z.device.type, enabled=False):
            found = self.quantizer(self.project_in(z), mask)
            return Quantized(self.project_out(found.latents), found.indices, found.loss, found.parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of the inner quantizer's indices."""
        codes = self.quantizer.lookup(indices)
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(codes)
