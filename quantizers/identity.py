"""Identity: a bottleneck of few channels and nothing else, for continuous latents."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Quantized, Quantizer

__all__ = ["Identity"]


class Identity(Quantizer):
    """Latents pass as they are: the narrow width is the only constraint (the continuous models of ALIT and KARL).

    Args:
        dim: width D of the latents.

    Raises:
        ValueError: dim < 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Identity expects dim >= 1, got {dim}")
        self.dim = dim
        self.codebook_sizes = ()

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Latents (B, N, dim) in float32, zeros at padding; indices (B, N, 0); a loss of 0."""
        latents = self._check_latents(z, mask)
        indices = torch.empty(*latents.shape[:2], 0, dtype=torch.int64, device=latents.device)
        return Quantized(latents, indices, latents.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """Raise: continuous latents have no codebook.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Identity has no codebook to look indices up in; pass Quantized.latents to the decoder instead"
        )

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
