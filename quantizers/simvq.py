"""SimVQ: a frozen codebook seen through one learned linear map."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer, mean
from .nearest import nearest_code
from .upkeep import align_once

__all__ = ["SimVQ"]


class SimVQ(Quantizer):
    """Vector quantization with codes e_k = W c_k, of which only W is learned (arXiv 2411.02038).

        index = argmin_k |z - W c_k|^2,    q = W c_index
        loss = commitment * mean((sg[q] - z)^2) + codebook_loss * mean((q - sg[z])^2)

    Every chosen code moves W and thereby all others, so that no code is left behind. All K codes are computed once per
    call, and `lookup` gathers from the same product: the codes it returns are bit-equal to those of `forward`.

    The defaults are those of vector-quantize-pytorch, but for its estimator, "rotation".

    Args:
        dim: width D of the latents and codes.
        codebook_size: number of codes K.
        codebook_dim: width C of the frozen vectors c_k; `dim` by default.
        commitment: weight of the term that draws latents to codes.
        codebook_loss: weight of the term that draws codes to latents.
        estimator: gradient to z, "straight_through", "rotation" or "none" (`estimators`).

    Attributes:
        codebook: (K, C) float32 buffer, the frozen c_k, drawn from N(0, 1 / C).
        transform: (D, C) float32 parameter W.

    Raises:
        ValueError: a size below 1, or an unknown estimator.
    """

    codebook: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        *,
        commitment: float = 0.25,
        codebook_loss: float = 1.0,
        estimator: Literal["straight_through", "rotation", "none"] = "straight_through",
    ) -> None:
        super().__init__()
        codebook_dim = dim if codebook_dim is None else codebook_dim
        if min(dim, codebook_size, codebook_dim) < 1:
            raise ValueError(
                "SimVQ expects dim, codebook_size and codebook_dim of at least 1, "
                f"got {dim}, {codebook_size} and {codebook_dim}"
            )
        self.estimator = self._check_estimator(estimator)
        self.dim = dim
        self.codebook_sizes = (codebook_size,)
        self.commitment = commitment
        self.codebook_loss = codebook_loss
        self.register_buffer("codebook", torch.empty(codebook_size, codebook_dim))
        self.transform = nn.Parameter(torch.empty(dim, codebook_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the frozen vectors from N(0, 1 / C) and W from U(-1, 1) / sqrt(C), a linear layer's start."""
        scale = self.codebook.shape[1] ** -0.5
        nn.init.normal_(self.codebook, std=scale)
        nn.init.uniform_(self.transform, -scale, scale)

    @property
    def codes(self) -> Tensor:
        """(K, D) float32 codes W c_k as looked up."""
        with torch.autocast(self.codebook.device.type, enabled=False):
            return F.linear(self.codebook, self.transform)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim); parts: "commitment", "codebook"."""
        z = self._check_latents(z, mask)
        align_once(self)
        codes = self.codes
        indices = nearest_code(z, codes)
        chosen = F.embedding(indices, codes)
        fixed = chosen.detach()
        parts = {
            "commitment": mean((fixed - z).square(), mask),
            "codebook": mean((chosen - z.detach()).square(), mask),
        }
        loss = self.commitment * parts["commitment"] + self.codebook_loss * parts["codebook"]
        return Quantized(self._estimate(z, fixed), indices[..., None], loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, dim) of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return F.embedding(self._check_indices(indices)[..., 0], self.codes)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={len(self.codebook)}, codebook_dim={self.codebook.shape[1]}"
