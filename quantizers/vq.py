"""VQ: a codebook of vectors, learned by gradient or by moving averages."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer, mean
from .codebook import cluster_totals, ema_codes, kmeans, norm_ema_codes, replace_rows, sample_rows, update_average
from .distributed import broadcast_first, world_size
from .entropy import softmax_entropies
from .estimators import rotation_trick, straight_through
from .nearest import nearest_code

__all__ = ["VQ"]


class VQ(Quantizer):
    """Vector quantization: each latent becomes its nearest code (arXiv 1711.00937).

        index = argmin_k |z - e_k|^2,    q = e_index
        loss = commitment * mean((sg[q] - z)^2) + codebook_loss * mean((q - sg[z])^2)

    Means run over all elements. `normalize=True` projects latents and codes onto the unit sphere before everything
    else, the losses included. Loss weights of known recipes:

    - TiTok, LlamaGen: commitment=0.25, codebook_loss=1 (the defaults);
    - taming-transformers as published, whose beta sits on the codebook term: commitment=1, codebook_loss=0.25;
    - BSQ-ViT, which sums over channels: both multiplied by `dim`;
    - vector-quantize-pytorch with a learnable codebook, one undetached error of weight w: both w, counted twice in the
      value of the loss (gradients are equal).

    Losses are computed in eval as well; the codebook changes only while training. The first training step takes rank
    0's state, and counts, sums, k-means and replaced codes are shared by all ranks of the default process group, so
    codebooks stay equal whatever the seeds. Under FSDP leave this module unsharded: writes into a shard are lost.

    Args:
        dim: width of the latents and codes.
        codebook_size: number of codes K.
        normalize: unit-length latents and codes (ViT-VQGAN, arXiv 2110.04627).
        metric: "l2", or "cosine" to choose by angle alone while outputs and losses keep raw lengths.
        learn: "gradient": `codebook` is a parameter trained by `codebook_loss`; "ema": it is a buffer that follows the
            running mean of its latents (App. A.1); "norm_ema": a buffer of unit codes that turn towards the mean
            direction of their latents (BEiT v2, arXiv 2208.06366; needs `normalize`). Buffers ignore `codebook_loss`.
        commitment: weight of the term that draws latents to codes.
        codebook_loss: weight of the term that draws codes to latents.
        estimator: gradient to z, "straight_through" or "rotation" (`estimators`).
        decay: of the moving averages, per training forward.
        kmeans_init: start the codebook from k-means on the first training batch (never in eval). Run that batch
            outside torch.compile.
        kmeans_iterations: Lloyd updates of that start.
        dead_code_threshold: a code whose average count falls below this share of the uniform K-th is replaced by a
            latent of the current batch; 0 switches replacement off.
        entropy: weight of per-sample minus batch entropy of softmax(-|z - e|^2 / entropy_temperature), training only
            (LlamaGen); it holds all N x K affinities.
        entropy_temperature: of that softmax.

    Attributes:
        codebook: (K, D) float32, raw; `codes` gives them as used.
        cluster_size: (K,) average count per training forward; present unless learning by gradient alone.
        cluster_sum: (K, D) average sum of assigned latents; present when learn="ema".

    Raises:
        ValueError: a size, weight or mode out of range.
    """

    cluster_size: Tensor
    cluster_sum: Tensor
    initialized: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        normalize: bool = False,
        metric: Literal["l2", "cosine"] = "l2",
        learn: Literal["gradient", "ema", "norm_ema"] = "gradient",
        commitment: float = 0.25,
        codebook_loss: float = 1.0,
        estimator: Literal["straight_through", "rotation"] = "straight_through",
        decay: float = 0.99,
        kmeans_init: bool = False,
        kmeans_iterations: int = 10,
        dead_code_threshold: float = 0.0,
        entropy: float = 0.0,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        _check_choice("metric", metric, ("l2", "cosine"))
        _check_choice("learn", learn, ("gradient", "ema", "norm_ema"))
        _check_choice("estimator", estimator, ("straight_through", "rotation"))
        if min(dim, codebook_size, kmeans_iterations) < 1:
            raise ValueError(
                "VQ expects dim, codebook_size and kmeans_iterations of at least 1, "
                f"got {dim}, {codebook_size} and {kmeans_iterations}"
            )
        if not 0 <= decay < 1 or not 0 <= dead_code_threshold < 1:
            raise ValueError(
                "VQ expects decay and dead_code_threshold in [0, 1), "
                f"got {decay} and {dead_code_threshold}; e.g. decay=0.99, dead_code_threshold=0.1"
            )
        if learn == "norm_ema" and not normalize:
            raise ValueError("VQ learns by 'norm_ema' on the unit sphere only; set normalize=True or learn='ema'")
        self.dim = dim
        self.codebook_size = codebook_size
        self.codebook_sizes = (codebook_size,)
        self.normalize = normalize
        self.metric = metric
        self.learn = learn
        self.commitment = commitment
        self.codebook_loss = codebook_loss
        self.estimator = estimator
        self.decay = decay
        self.kmeans_init = kmeans_init
        self.kmeans_iterations = kmeans_iterations
        self.dead_code_threshold = dead_code_threshold
        self.entropy = entropy
        self.entropy_temperature = entropy_temperature

        codebook = torch.empty(codebook_size, dim)
        if learn == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        if learn == "ema":
            self.register_buffer("cluster_sum", torch.empty(codebook_size, dim))
        if learn != "gradient" or dead_code_threshold > 0:
            self.register_buffer("cluster_size", torch.empty(codebook_size))
        if kmeans_init:
            self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self._may_start = kmeans_init  # host-side mirror of `not initialized`, checked anew after loading
        self._aligned = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codebook from U(-1/K, 1/K) and start the averages from it, one vector a code."""
        with torch.no_grad():
            nn.init.uniform_(self.codebook, -1 / self.codebook_size, 1 / self.codebook_size)
            if self.learn != "gradient" and self.normalize:
                self.codebook.copy_(F.normalize(self.codebook, dim=-1))
            self._restart_averages(torch.ones(self.codebook_size, device=self.codebook.device))
            if self.kmeans_init:
                self.initialized.fill_(False)
        self._may_start = self.kmeans_init

    @property
    def codes(self) -> Tensor:
        """(K, D) float32 codes as looked up: of unit length when `normalize`."""
        codebook = self.codebook.float()
        return F.normalize(codebook, dim=-1) if self.normalize else codebook

    def forward(self, z: Tensor) -> Quantized:
        """Quantize (B, N, dim); parts: "commitment", "codebook" (gradient learning), "per_sample_entropy" and
        "batch_entropy" (when `entropy` > 0, training).

        Raises:
            ValueError: z is not floating-point or not (B, N, dim).
        """
        z = self._check_latents(z)
        if self.normalize:
            z = F.normalize(z, dim=-1)
        if self.training:
            self._prepare(z.detach().flatten(0, 1))
        codes = self.codes
        indices = self._nearest(z, codes)
        chosen = F.embedding(indices, codes)
        loss, parts = self._losses(z, chosen, codes)
        latents = chosen.detach()
        if self.training:
            self._track(z.detach().flatten(0, 1), indices.flatten())
            latents = rotation_trick(z, chosen) if self.estimator == "rotation" else straight_through(z, chosen)
        return Quantized(latents, indices[..., None], loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, dim) of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return F.embedding(self._check_indices(indices)[..., 0], self.codes)

    def _nearest(self, z: Tensor, codes: Tensor) -> Tensor:
        if self.metric == "cosine" and not self.normalize:
            z, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
        return nearest_code(z, codes)

    def _losses(self, z: Tensor, chosen: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parts = {"commitment": mean((chosen.detach() - z).square())}
        loss = self.commitment * parts["commitment"]
        if self.learn == "gradient":
            parts["codebook"] = mean((chosen - z.detach()).square())
            loss = loss + self.codebook_loss * parts["codebook"]
        if self.entropy > 0 and self.training:
            logits = self._affinities(z.flatten(0, 1), codes) / self.entropy_temperature
            parts["per_sample_entropy"], parts["batch_entropy"] = softmax_entropies(logits)
            loss = loss + self.entropy * (parts["per_sample_entropy"] - parts["batch_entropy"])
        return loss, parts

    def _affinities(self, z: Tensor, codes: Tensor) -> Tensor:
        """-|z - e|^2, summed in LlamaGen's order: a low temperature makes its rounding visible in the gradients."""
        with torch.autocast(z.device.type, enabled=False):
            return 2 * (z @ codes.T) - (z.square().sum(1, keepdim=True) + codes.square().sum(1))

    @torch.no_grad()
    def _prepare(self, x: Tensor) -> None:
        """Before the search: equal ranks, k-means start, replacement of the codes found dead in earlier steps."""
        if not self._aligned and world_size() > 1:
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.copy_(broadcast_first(tensor.detach().clone()))
            self._aligned = True
        if self._may_start:
            self._start(x)
        if self.dead_code_threshold > 0:
            dead = self.cluster_size < self.dead_code_threshold * self.cluster_size.mean()
            if torch.compiler.is_compiling() or bool(dead.any()):
                self._revive(x, dead)

    @torch.no_grad()
    def _track(self, x: Tensor, indices: Tensor) -> None:
        """After the search: fold this step's assignments into the averages and, with EMA, move the codes."""
        if self.learn == "gradient" and self.dead_code_threshold == 0:
            return
        counts, sums = cluster_totals(x, indices, self.codebook_size)
        update_average(self.cluster_size, counts, self.decay)
        if self.learn == "ema":
            update_average(self.cluster_sum, sums, self.decay)
            codes = ema_codes(self.cluster_size, self.cluster_sum)
            self.codebook.copy_(F.normalize(codes, dim=-1) if self.normalize else codes)
        elif self.learn == "norm_ema":
            self.codebook.copy_(norm_ema_codes(self.codebook, counts, sums, self.decay))

    def _start(self, x: Tensor) -> None:
        if not bool(self.initialized):
            means = sample_rows(x, self.codebook_size, self.codes)
            means, counts = kmeans(x, means, self.kmeans_iterations, normalize=self.normalize)
            if not bool(counts.any()):  # the batches of all ranks are empty: try again on the next
                return
            self.codebook.copy_(means)
            self._restart_averages(counts.clamp_min(1))
            self.initialized.fill_(True)
        self._may_start = False

    def _revive(self, x: Tensor, dead: Tensor) -> None:
        """Put latents in the place of dead codes, with an average share of the counts, so that they last."""
        rows = sample_rows(x, self.codebook_size, self.codes)
        replace_rows(self.codebook, rows, dead)
        share = self.cluster_size.mean().expand(self.codebook_size)
        replace_rows(self.cluster_size, share, dead)
        if self.learn == "ema":
            replace_rows(self.cluster_sum, rows * share[:, None], dead)

    def _restart_averages(self, counts: Tensor) -> None:
        if "cluster_size" in self._buffers:
            self.cluster_size.copy_(counts)
        if "cluster_sum" in self._buffers:
            self.cluster_sum.copy_(self.codebook * counts[:, None])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._may_start, self._aligned = self.kmeans_init, False

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={self.codebook_size}, normalize={self.normalize}, learn={self.learn!r}"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"VQ expects {name} to be one of {', '.join(choices)}, got {value!r}")
