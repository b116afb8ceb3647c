"""ClusteringVQ: a codebook whose rarely used codes are drawn to the latents closest to them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .codebook import cluster_totals, update_average
from .distributed import all_gather_rows, world_size
from .nearest import nearest_code
from .vq import VQ

__all__ = ["ClusteringVQ"]


class ClusteringVQ(VQ):
    """VQ with the online clustering of CVQ-VAE, as TA-TiTok trains (arXiv 2307.15139, Eq. 4 to 6; arXiv 2501.07730).

    Codes learn by gradient as in `VQ`. At the end of every training forward the running share p_k of each code is
    brought up to date, and each code moves towards the latent of this step that is closest to it, the further the less
    it is used:

        p_k <- decay * p_k + (1 - decay) * count_k / total
        a_k  = exp(-pull * K * p_k / (1 - decay) - 1e-3)
        e_k <- (1 - a_k) e_k + a_k z_nearest(k)

    A code that is never used is replaced almost wholly; with the defaults one that gets a K-th of the latents moves by
    exp(-1000) and stays. Latents and losses of the step are those before the move. Counts and the nearest latents are
    those of all ranks. A step without any real latent changes nothing.

    Shares start at zero, so that the first steps pull every code: the codebook settles on the data by itself.

    Args:
        dim: width of the latents and codes.
        codebook_size: number of codes K.
        decay: of the shares, per training forward.
        pull: how fast the move fades with use; 10 in both papers.
        options: `commitment`, `codebook_loss`, `estimator`, `kmeans_init`, `kmeans_iterations`, `precision`, `entropy`
            and `entropy_temperature` of `VQ`.

    Attributes:
        share: (K,) float32, p_k.

    Raises:
        ValueError: a size, weight or mode out of range, or an option of `VQ` that does not go with the clustering.
    """

    share: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        decay: float = 0.99,
        pull: float = 10.0,
        precision: Literal["float32", "tf32", "bfloat16"] = "float32",
        **options: Any,
    ) -> None:
        if refused := options.keys() & {"normalize", "metric", "learn", "dead_code_threshold", "orthogonality"}:
            raise ValueError(
                f"ClusteringVQ learns raw codes by gradient and revives them itself; leave out {', '.join(refused)}"
            )
        if pull <= 0:
            raise ValueError(f"ClusteringVQ expects pull > 0, got {pull}")
        super().__init__(dim, codebook_size, decay=decay, precision=precision, **options)
        self.pull = pull
        self.register_buffer("share", torch.zeros(codebook_size))

    def reset_parameters(self) -> None:
        """Draw the codebook from U(-1/K, 1/K) and forget all use."""
        super().reset_parameters()
        if "share" in self._buffers:
            self.share.zero_()

    @property
    def codes(self) -> Tensor:
        """(K, D) float32; a copy while training, because the clustering writes before gradients are taken."""
        return self.codebook.clone() if self.training else self.codebook

    @torch.no_grad()
    def _track(self, x: Tensor, indices: Tensor, real: Tensor | None) -> None:
        counts, _ = cluster_totals(x, indices, self.codebook_size, real)
        total = counts.sum()
        update_average(self.share, torch.where(total > 0, counts / total.clamp_min(1), self.share), self.decay)
        weights = torch.exp(-self.pull * self.codebook_size / (1 - self.decay) * self.share - 1e-3)
        pull_to_latents(x, real, self.codebook.detach(), torch.where(total > 0, weights, 0.0))


@torch.library.custom_op("tokenizer_zoo::pull_to_latents", mutates_args=("codebook",))
def pull_to_latents(x: Tensor, mask: Tensor | None, codebook: Tensor, weights: Tensor) -> None:
    """codebook <- codebook + weights * (the closest of the vectors x (N, D) of all ranks - codebook)."""
    if mask is not None:
        x = x[mask]
    if len(x):
        closest = x[nearest_code(codebook, x)]
        distance = (closest - codebook).square().sum(1, keepdim=True)
    else:
        closest, distance = codebook.clone(), codebook.new_full((len(codebook), 1), torch.inf)
    if world_size() > 1:
        ranks = all_gather_rows(torch.cat([closest, distance], 1)).view(world_size(), len(codebook), -1)
        best = ranks[..., -1].argmin(0)
        closest = ranks[best, torch.arange(len(codebook), device=best.device), :-1]
    codebook.lerp_(closest, weights[:, None])
