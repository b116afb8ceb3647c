"""Gumbel: codes sampled while training, by the Gumbel-softmax relaxation."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, mean
from .nearest import nearest_code
from .soft import SoftQuantizer, in_blocks
from .upkeep import align_once

__all__ = ["Gumbel"]


class Gumbel(SoftQuantizer):
    """Categorical codes with Gumbel-softmax samples (arXiv 1611.01144; the bottleneck of DALL-E, arXiv 2102.12092).

        logits = W z + b,    g_k = -log(-log u_k),    y = softmax((logits + g) / temperature)
        training:  index = argmax_k y_k,    q = (hard + y - sg[y])^T E,    or y^T E with hard=False
        eval:      index = argmax_k logits_k,    q = e_index
        loss = kl * KL(softmax(logits) || uniform),    a mean over positions, in nats

    The KL divergence is computed while training only. The N x K numbers are made in blocks of at most 2**24, computed
    again for the gradient with the same noise.

    Args:
        dim: width of the codes.
        codebook_size: number of codes K.
        input_dim: width of the latents read; `dim` by default.
        temperature: of the samples; an attribute that a schedule may set before each step (DALL-E: 1 to 1/16).
        hard: return one code in training too, with the gradient of the soft sample.
        kl: weight of the divergence.
        estimator: "straight_through": the gradient above; "none": it trains the quantizer's own parameters alone.

    Attributes:
        codebook: (K, dim) float32 parameter.
        project: linear layer from latents to logits.

    Raises:
        ValueError: a size or option out of range, or a temperature that is not positive.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        input_dim: int | None = None,
        temperature: float = 1.0,
        hard: bool = True,
        kl: float = 5e-4,
        estimator: Literal["straight_through", "none"] = "straight_through",
    ) -> None:
        super().__init__()
        input_dim = dim if input_dim is None else input_dim
        if min(dim, codebook_size, input_dim) < 1:
            raise ValueError(
                "Gumbel expects dim, codebook_size and input_dim of at least 1, "
                f"got {dim}, {codebook_size} and {input_dim}"
            )
        self.estimator = estimator
        self.dim = dim
        self.codebook_sizes = (codebook_size,)
        self.temperature = temperature
        self.hard = hard
        self.kl = kl
        self.project = nn.Linear(input_dim, codebook_size)
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codebook from N(0, 1) and the logits as a linear layer starts."""
        nn.init.normal_(self.codebook)
        self.project.reset_parameters()

    @property
    def input_dim(self) -> int:
        """Width of the latents that `forward` reads."""
        return self.project.in_features

    @property
    def temperature(self) -> float:
        """Of the samples drawn while training, positive."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if value <= 0:
            raise ValueError(f"Gumbel expects temperature > 0, got {value}; hard=True gives discrete codes at any")
        self._temperature = value

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, input_dim); parts: "kl" while training."""
        z = self._check_latents(z, mask)
        align_once(self)
        if not self.training:
            indices = nearest_code(z, self.project.weight, offsets=-self.project.bias)
            return Quantized(F.embedding(indices, self.codebook).detach(), indices[..., None], z.new_zeros(()))
        found = in_blocks(self._sample, z.flatten(0, 1), len(self.codebook), random=True)
        soft, indices, divergence = (rows.unflatten(0, z.shape[:2]) for rows in found)
        latents = F.embedding(indices, self.codebook) + (soft - soft.detach()) if self.hard else soft
        kl = mean(divergence, mask)
        return Quantized(latents, indices[..., None], self.kl * kl, {"kl": kl})

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, dim) of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return F.embedding(self._check_indices(indices)[..., 0], self.codebook)

    def _sample(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft codes (R, D), sampled indices (R,) and divergences from uniform (R,) of latents (R, input_dim)."""
        codebook = self.codebook.detach() if self.hard else self.codebook
        with torch.autocast(x.device.type, enabled=False):
            logits = self.project(x)
            log_p = logits.log_softmax(-1)
            if self.estimator == "none":
                logits = self.project(x.detach())
            uniform = torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny)
            scores = (logits - uniform.log()) / self.temperature
            soft = scores.softmax(-1) @ codebook
        return soft, scores.argmax(-1), (log_p.exp() * log_p).sum(-1) + math.log(logits.shape[-1])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={len(self.codebook)}, temperature={self.temperature}, hard={self.hard}"
