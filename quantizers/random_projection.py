"""RandomProjection: targets for self-supervised learning from a frozen random projection."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer
from .nearest import nearest_code
from .upkeep import align_once

__all__ = ["RandomProjection"]


class RandomProjection(Quantizer):
    """Random-projection quantizer of BEST-RQ (arXiv 2202.01855, Eq. 1), one or several side by side.

        index = argmin_k | unit(c_k) - unit(A norm(x)) |,    q = unit(c_index)

    Neither the projections A nor the codes learn, and the loss is 0: the indices are labels for a model that predicts
    masked speech. Projections and codes are persistent buffers, so that a checkpoint keeps its labels.

    Args:
        input_dim: width of the features read.
        codebook_dim: width of a code; the latents of all codebooks are concatenated.
        codebook_size: codes of each codebook.
        num_codebooks: independent projections and codebooks.
        norm: bring each feature vector to zero mean and unit variance first, without which few codes are ever used.
        estimator: "none": the latents carry no gradient; "straight_through" or "rotation": theirs is that of the
            projected vectors.

    Attributes:
        projection: (Q, input_dim, codebook_dim) float32 buffer, Xavier normal.
        codebook: (Q, K, codebook_dim) float32 buffer of unit codes, drawn from N(0, 1).

    Raises:
        ValueError: a size below 1, or an unknown estimator.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(
        self,
        input_dim: int,
        codebook_dim: int,
        codebook_size: int,
        num_codebooks: int = 1,
        *,
        norm: bool = True,
        estimator: Literal["straight_through", "rotation", "none"] = "none",
    ) -> None:
        super().__init__()
        if min(input_dim, codebook_dim, codebook_size, num_codebooks) < 1:
            raise ValueError(
                "RandomProjection expects input_dim, codebook_dim, codebook_size and num_codebooks of at least 1, "
                f"got {input_dim}, {codebook_dim}, {codebook_size} and {num_codebooks}"
            )
        self.estimator = self._check_estimator(estimator)
        self.dim = num_codebooks * codebook_dim
        self.codebook_sizes = (codebook_size,) * num_codebooks
        self.norm = norm
        self.register_buffer("projection", torch.empty(num_codebooks, input_dim, codebook_dim))
        self.register_buffer("codebook", torch.empty(num_codebooks, codebook_size, codebook_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw projections and codes."""
        _, input_dim, codebook_dim = self.projection.shape
        nn.init.normal_(self.projection, std=(2 / (input_dim + codebook_dim)) ** 0.5)
        nn.init.normal_(self.codebook)
        with torch.no_grad():
            self.codebook.copy_(F.normalize(self.codebook, dim=-1))

    @property
    def input_dim(self) -> int:
        """Width of the features that `forward` reads."""
        return self.projection.shape[1]

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, input_dim) to latents (B, N, num_codebooks * codebook_dim); the loss is 0."""
        z = self._check_latents(z, mask)
        align_once(self)
        if self.norm:
            z = F.layer_norm(z, z.shape[-1:])
        with torch.autocast(z.device.type, enabled=False):
            projected = [F.normalize(z @ each, dim=-1) for each in self.projection]
        found = [nearest_code(x, codes) for x, codes in zip(projected, self.codebook, strict=True)]
        indices = torch.stack(found, dim=-1)
        latents = self._estimate(torch.cat(projected, dim=-1), self._codes(indices))
        return Quantized(latents, indices, z.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """Unit codes (B, N, num_codebooks * codebook_dim), concatenated, of indices (B, N, num_codebooks).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return self._codes(self._check_indices(indices))

    def _codes(self, indices: Tensor) -> Tensor:
        columns = zip(indices.unbind(-1), self.codebook, strict=True)
        return torch.cat([F.embedding(column, codes) for column, codes in columns], dim=-1)

    def extra_repr(self) -> str:
        count, size, width = self.codebook.shape
        return f"input_dim={self.input_dim}, codebook_dim={width}, codebook_size={size}, num_codebooks={count}"
