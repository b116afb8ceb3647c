"""IBQ: index backpropagation, gradients through the choice itself to every code."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, mean
from .entropy import softmax_entropies
from .nearest import nearest_code
from .soft import SoftQuantizer, expected_codes
from .upkeep import align_once

__all__ = ["IBQ"]


class IBQ(SoftQuantizer):
    """Index backpropagation quantization: the choice is a softmax over all codes in backward (arXiv 2412.02692).

        logits_k = z.e_k,    index = argmax_k logits_k,    p = softmax(logits)
        q = onehot^T E,    onehot = hard + p - sg[p]
        loss = propagation * mean((q - z)^2) + commitment * mean((sg[q] - z)^2)
             + codebook_loss * mean((q_hard - sg[z])^2)
             + entropy * (E[H(p')] - diversity * H(E[p'])),    p' = softmax(logits / entropy_temperature)

    The gradient of q reaches the chosen code directly, and through p all codes and z. q_hard is the code without the
    path through p; all three squared errors have the same value. The N x K probabilities are made in blocks of at most
    2**24 and computed again for the gradient. Codes are the largest inner product, not the nearest: a code need not be
    chosen for itself. Entropies are in nats and computed only while training.

    SEED-Voken's recipes have entropy=0.05 and start the codes from U(-1/K, 1/K), which asks for long training: after
    the 800 steps of benchmarks/codebook_health.py 9 % of 4096 codes were in use, 98 % with the defaults here.

    Args:
        dim: width of the latents and codes.
        codebook_size: number of codes K.
        metric: "dot", or "cosine" to take the logits between unit vectors; outputs keep the raw codes.
        propagation: weight of the error whose gradient passes through the choice.
        commitment: weight of the term that draws latents to codes.
        codebook_loss: weight of the term that draws codes to latents.
        entropy: weight of the entropy terms; 0 skips them.
        diversity: weight of the batch entropy against the per-sample entropy.
        entropy_temperature: of the softmax in the entropies.
        estimator: "straight_through": the gradient above; "none": the path through p trains the codes alone.

    Attributes:
        codebook: (K, D) float32 parameter.

    Raises:
        ValueError: a size or option out of range.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        metric: Literal["dot", "cosine"] = "dot",
        propagation: float = 1.0,
        commitment: float = 1.0,
        codebook_loss: float = 0.25,
        entropy: float = 0.2,
        diversity: float = 1.0,
        entropy_temperature: float = 0.01,
        estimator: Literal["straight_through", "none"] = "straight_through",
    ) -> None:
        super().__init__()
        if min(dim, codebook_size) < 1:
            raise ValueError(f"IBQ expects dim and codebook_size of at least 1, got {dim} and {codebook_size}")
        if metric not in ("dot", "cosine"):
            raise ValueError(f"IBQ expects metric to be dot or cosine, got {metric!r}")
        if entropy_temperature <= 0:
            raise ValueError(f"IBQ expects entropy_temperature > 0, got {entropy_temperature}")
        self.estimator = estimator
        self.dim = dim
        self.codebook_sizes = (codebook_size,)
        self.metric = metric
        self.propagation = propagation
        self.commitment = commitment
        self.codebook_loss = codebook_loss
        self.entropy = entropy
        self.diversity = diversity
        self.entropy_temperature = entropy_temperature
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codebook from N(0, 1)."""
        nn.init.normal_(self.codebook)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim); parts: "propagation", "commitment", "codebook", and "per_sample_entropy" and
        "batch_entropy" while training with `entropy` > 0.
        """
        z = self._check_latents(z, mask)
        align_once(self)
        indices = nearest_code(self._scaled(z), self._scaled(self.codebook), offsets=z.new_zeros(len(self.codebook)))
        hard = F.embedding(indices, self.codebook)
        latents = hard
        if self.training:
            path = z.detach() if self.estimator == "none" else z
            soft = expected_codes(self._logits, path.flatten(0, 1), self.codebook).view_as(z)
            latents = hard + (soft - soft.detach())
        parts = {
            "propagation": mean((latents - z).square(), mask),
            "commitment": mean((hard.detach() - z).square(), mask),
            "codebook": mean((hard - z.detach()).square(), mask),
        }
        loss = (
            self.propagation * parts["propagation"]
            + self.commitment * parts["commitment"]
            + self.codebook_loss * parts["codebook"]
        )
        if self.training and self.entropy > 0:
            real = None if mask is None else mask.flatten()
            entropies = softmax_entropies(self._sharpened, z.flatten(0, 1), len(self.codebook), real)
            parts["per_sample_entropy"], parts["batch_entropy"] = entropies
            loss = loss + self.entropy * (entropies.per_sample - self.diversity * entropies.batch)
        return Quantized(latents if self.training else hard.detach(), indices[..., None], loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, dim) of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return F.embedding(self._check_indices(indices)[..., 0], self.codebook)

    def _scaled(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.metric == "cosine" else x

    def _logits(self, x: Tensor) -> Tensor:
        """(R, D) to (R, K)."""
        with torch.autocast(x.device.type, enabled=False):
            return self._scaled(x) @ self._scaled(self.codebook).T

    def _sharpened(self, x: Tensor) -> Tensor:
        return self._logits(x) / self.entropy_temperature

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={len(self.codebook)}, metric={self.metric!r}"
