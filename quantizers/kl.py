"""KL: the Gaussian bottleneck of variational autoencoders, for continuous latents."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Quantized, Quantizer

__all__ = ["KL"]


class KL(Quantizer):
    """Diagonal Gaussian bottleneck with a KL penalty to N(0, 1) (arXiv 1312.6114).

        mean, logvar = split(z),    latents = mean + exp(logvar / 2) * noise   (training)   or   mean   (eval)
        kl = 1/2 * sum(mean^2 + exp(logvar) - 1 - logvar),    loss = weight * kl, summed over N and D, mean over B

    logvar is clamped to [-30, 20]. These are the conventions of TiTok's VAE mode and of AutoencoderKL.

    Args:
        dim: width D of the latents; the encoder gives 2 * dim, means first.
        weight: of the KL term.

    Raises:
        ValueError: dim < 1.
    """

    def __init__(self, dim: int, *, weight: float = 1e-6) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"KL expects dim >= 1, got {dim}")
        self.dim = dim
        self.codebook_sizes = ()
        self.weight = weight

    @property
    def input_dim(self) -> int:
        """Means and log-variances: 2 * dim."""
        return 2 * self.dim

    def forward(self, z: Tensor, mask: Tensor | None = None, *, generator: torch.Generator | None = None) -> Quantized:
        """Pass (B, N, 2 * dim) through the bottleneck.

        Args:
            z: means and log-variances, concatenated along the last axis.
            mask: (B, N) bool, False for padding, which does not count in the loss.
            generator: source of the training noise; the global one by default.

        Returns:
            Latents (B, N, dim), indices (B, N, 0), the weighted loss, parts: "kl".

        Raises:
            ValueError: z is not floating-point or not (B, N, 2 * dim).
        """
        mean, logvar = self.posterior(z, mask)
        kl = self.divergence(mean, logvar).sum() / max(len(mean), 1)
        latents = mean
        if self.training:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            latents = mean + (logvar / 2).exp() * noise
        indices = torch.empty(*mean.shape[:2], 0, dtype=torch.int64, device=mean.device)
        return Quantized(latents, indices, self.weight * kl, {"kl": kl})

    def posterior(self, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and clamped log-variance, (B, N, dim) float32 each, from (B, N, 2 * dim)."""
        mean, logvar = self._check_latents(z, mask).chunk(2, dim=-1)
        return mean, logvar.clamp(-30, 20)

    @staticmethod
    def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
        """KL divergence from N(0, 1) of each position, (B, N) nats, summed over channels."""
        return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Raise: continuous latents have no codebook.

        Raises:
            ValueError: always.
        """
        raise ValueError("KL has no codebook to look indices up in; pass Quantized.latents to the decoder instead")

    def extra_repr(self) -> str:
        return f"dim={self.dim}, weight={self.weight}"
