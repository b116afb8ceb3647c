"""SharedVQ: several codebooks under one index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .entropy import Entropies, softmax_entropies
from .nearest import nearest_code
from .vq import VQ

__all__ = ["SharedVQ"]


class SharedVQ(VQ):
    """A code of several parts chosen by one index: TokenFlow's shared mapping (arXiv 2412.03069).

        z = (z_1, ..., z_P),    index = argmin_k sum_p weights_p |z_p - e_pk|^2,    q = (e_1index, ..., e_Pindex)

    Semantic and pixel features so share their tokens. Each part is projected onto a unit sphere of its own, and the sum
    is one search over the concatenated parts. Losses are VQ's, means over all channels; k-means weighs parts alike.

    Args:
        dims: widths of the parts, in the order of the channels of z; `dim` is their sum.
        codebook_size: number of codes K, in every part.
        weights: of the squared distances; 1 each by default.
        normalize: unit-length parts.
        **options: of `VQ`: commitment, codebook_loss, learn ("gradient" or "ema"), estimator, entropy and so on; the
            entropies are those of the weighted distances.

    Attributes:
        codebook: (K, sum(dims)) float32, raw, the parts side by side; `codes` gives them as used.

    Raises:
        ValueError: a width or weight out of range, or an option that has no meaning for several parts.
    """

    def __init__(
        self,
        dims: Sequence[int],
        codebook_size: int,
        *,
        weights: Sequence[float] | None = None,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        widths = tuple(int(dim) for dim in dims)
        shares = (1.0,) * len(widths) if weights is None else tuple(float(weight) for weight in weights)
        if not widths or min(widths) < 1:
            raise ValueError(
                f"SharedVQ expects a width of at least 1 for each part, got {list(dims)}; e.g. dims=(8, 4)"
            )
        if len(shares) != len(widths) or min(shares) < 0 or not any(shares):
            raise ValueError(
                f"SharedVQ expects one weight of at least 0 for each of its {len(widths)} parts, "
                f"one of them positive, got {list(shares)}"
            )
        if options.get("learn") == "norm_ema" or options.get("metric", "l2") != "l2":
            raise ValueError(
                "SharedVQ has unit vectors in each part, not as a whole: use learn='gradient' or 'ema' and metric='l2'"
            )
        self.dims = widths  # plain values, which the parent's constructor already needs
        self.weights = shares
        super().__init__(sum(widths), codebook_size, normalize=normalize, **options)

    def reset_parameters(self) -> None:
        """Draw the codebook from U(-1/K, 1/K) and start the averages from it, one vector a code."""
        super().reset_parameters()
        if self.learn == "ema":
            with torch.no_grad():
                self.codebook.copy_(self._unit(self.codebook))
                if self.cluster_sum is not None:
                    self.cluster_sum.copy_(self.codebook)

    def _unit(self, x: Tensor) -> Tensor:
        if not self.normalize:
            return x
        return torch.cat([F.normalize(part, dim=-1) for part in x.split(self.dims, dim=-1)], dim=-1)

    def _nearest(self, z: Tensor, codes: Tensor) -> Tensor:
        return nearest_code(self._weighted(z), self._weighted(codes))

    def _entropies(self, z: Tensor, codes: Tensor, mask: Tensor | None) -> Entropies:
        if self.learn != "gradient":
            codes = codes.clone()  # the moving average writes into the buffer before the gradient is taken

        def affinities(x: Tensor) -> Tensor:
            """Summed over parts as TokenFlow does: a low temperature makes the rounding visible in the gradients."""
            total = x.new_zeros(())
            parts = zip(x.split(self.dims, dim=1), codes.split(self.dims, dim=1), self.weights, strict=True)
            with torch.autocast(x.device.type, enabled=False):
                for part, code, weight in parts:
                    norms = part.square().sum(1, keepdim=True) + code.square().sum(1)
                    total = total + weight * (2 * (part @ code.T) - norms)
            return total / self.entropy_temperature

        return softmax_entropies(
            affinities, z.flatten(0, 1), self.codebook_size, None if mask is None else mask.flatten()
        )

    def _weighted(self, x: Tensor) -> Tensor:
        """Channels scaled such that squared distances come out weighted."""
        if set(self.weights) == {1.0}:
            return x
        parts = zip(x.split(self.dims, dim=-1), self.weights, strict=True)
        return torch.cat([part * weight**0.5 for part, weight in parts], dim=-1)

    def extra_repr(self) -> str:
        return f"dims={self.dims}, codebook_size={self.codebook_size}, learn={self.learn!r}"
