"""VQ: a codebook of vectors, learned by gradient or by moving averages."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer, mean
from .codebook import cluster_totals, ema_codes, norm_ema_codes, update_average
from .entropy import Entropies, softmax_entropies
from .nearest import nearest_code
from .upkeep import align_once, replace_dead_codes, snapshot, start_codebook

__all__ = ["VQ"]


class VQ(Quantizer):
    """Vector quantization: each latent becomes its nearest code (arXiv 1711.00937).

        index = argmin_k |z - e_k|^2,    q = e_index
        loss = commitment * mean((sg[q] - z)^2) + codebook_loss * mean((q - sg[z])^2)

    Means run over all elements of real positions. `normalize=True` projects latents and codes onto the unit sphere
    before everything else, the losses included. Loss weights of known recipes:

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
        estimator: gradient to z, "straight_through", "rotation" or "none" (`estimators`).
        decay: of the moving averages, per training forward.
        count_floor: least averaged count that a sum is divided by when learn="ema": above 0, codes that are hardly used
            shrink towards zero in place of resting on a few old latents (EvoTok: 1).
        kmeans_init: start the codebook from k-means on the first training batch (never in eval).
        kmeans_iterations: Lloyd updates of that start.
        dead_code_threshold: a code whose average count falls below this share of the uniform K-th is replaced by a
            latent of the current batch; 0 switches replacement off. EMA codes are replaced after the search, before the
            averages take the step in (Mimi); a learned codebook before the next search.
        dead_code_interval: training forwards from one look for dead codes to the next.
        orthogonality: weight of the mean squared cosine between codes, less the 1 / K of each with itself
            (vector-quantize-pytorch); needs learn="gradient". Computed from a D x D matrix, never K x K.
        precision: of the matrix product that proposes codes, "float32", "tf32" or "bfloat16"; the chosen code is the
            float32 one for all (`nearest_code`).
        reference_bugs: behave as EnCodec, WavTokenizer and SpeechTokenizer do while training: replacements of dead
            codes are overwritten by the moving average in the same step, so that none lasts, and every rank of a
            distributed run follows its own data, so that codebooks drift apart.
        entropy: weight of per-sample minus batch entropy of softmax(-|z - e|^2 / entropy_temperature), training only
            (LlamaGen).
        entropy_temperature: of that softmax.

    Attributes:
        codebook: (K, D) float32, raw; `codes` gives them as used.
        cluster_size: (K,) average count per training forward; present unless learning by gradient alone.
        cluster_sum: (K, D) average sum of assigned latents; present when learn="ema".
        initialized: () bool, whether the k-means start has happened; present when kmeans_init.
        steps: () int64, training forwards seen; present when dead_code_threshold > 0.

    Raises:
        ValueError: a size, weight or mode out of range.
    """

    codebook: Tensor
    cluster_size: Tensor | None
    cluster_sum: Tensor | None
    initialized: Tensor | None
    steps: Tensor | None
    _postponed: list[tuple[Tensor, Tensor, Tensor | None]] | None = None

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
        estimator: Literal["straight_through", "rotation", "none"] = "straight_through",
        decay: float = 0.99,
        count_floor: float = 0.0,
        kmeans_init: bool = False,
        kmeans_iterations: int = 10,
        dead_code_threshold: float = 0.0,
        dead_code_interval: int = 1,
        orthogonality: float = 0.0,
        precision: Literal["float32", "tf32", "bfloat16"] = "float32",
        reference_bugs: bool = False,
        entropy: float = 0.0,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        _check_choice("metric", metric, ("l2", "cosine"))
        _check_choice("learn", learn, ("gradient", "ema", "norm_ema"))
        self.estimator = self._check_estimator(estimator)
        if min(dim, codebook_size, kmeans_iterations, dead_code_interval) < 1:
            raise ValueError(
                "VQ expects dim, codebook_size, kmeans_iterations and dead_code_interval of at least 1, "
                f"got {dim}, {codebook_size}, {kmeans_iterations} and {dead_code_interval}"
            )
        if not 0 <= decay < 1 or not 0 <= dead_code_threshold < 1:
            raise ValueError(
                "VQ expects decay and dead_code_threshold in [0, 1), "
                f"got {decay} and {dead_code_threshold}; e.g. decay=0.99, dead_code_threshold=0.1"
            )
        if orthogonality > 0 and learn != "gradient":
            raise ValueError("VQ's orthogonality needs a codebook with gradients; set learn='gradient'")
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
        self.decay = decay
        self.count_floor = count_floor
        self.kmeans_init = kmeans_init
        self.kmeans_iterations = kmeans_iterations
        self.dead_code_threshold = dead_code_threshold
        self.dead_code_interval = dead_code_interval
        self.orthogonality = orthogonality
        self.precision: Literal["float32", "tf32", "bfloat16"] = precision
        self.reference_bugs = reference_bugs
        self.entropy = entropy
        self.entropy_temperature = entropy_temperature

        codebook = torch.empty(codebook_size, dim)
        if learn == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        counted, summed = learn != "gradient" or dead_code_threshold > 0, learn == "ema"
        self.register_buffer("cluster_size", torch.empty(codebook_size) if counted else None)
        self.register_buffer("cluster_sum", torch.empty(codebook_size, dim) if summed else None)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool) if kmeans_init else None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64) if dead_code_threshold > 0 else None)
        self._may_start = kmeans_init  # host-side mirror of `not initialized`, checked anew after loading
        self._aligned = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codebook from U(-1/K, 1/K) and start the averages from it, one vector a code."""
        with torch.no_grad():
            nn.init.uniform_(self.codebook, -1 / self.codebook_size, 1 / self.codebook_size)
            if self.learn != "gradient" and self.normalize:
                self.codebook.copy_(F.normalize(self.codebook, dim=-1))
            if self.cluster_size is not None:
                self.cluster_size.fill_(1)
            if self.cluster_sum is not None:
                self.cluster_sum.copy_(self.codebook)
            for counter in (self.initialized, self.steps):
                if counter is not None:
                    counter.zero_()
        self._may_start = self.kmeans_init

    @property
    def codes(self) -> Tensor:
        """(K, D) float32 codes as looked up: of unit length when `normalize`."""
        if self.training and self.learn == "gradient" and self.steps is not None:
            return self._unit(snapshot(self.codebook))  # dead codes may be replaced before the gradient is taken
        return self._unit(self.codebook)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim); parts: "commitment", "codebook" (gradient learning), "orthogonality" (when its weight
        is not 0), "per_sample_entropy" and "batch_entropy" (when `entropy` > 0, training).
        """
        z = self._unit(self._check_latents(z, mask))
        rows, real = z.detach().flatten(0, 1), None if mask is None else mask.flatten()
        if self.training and self._postponed is None:
            self._prepare(rows, real)
        elif self.training and not self._postponed:
            self._start(rows, real)
        codes = self.codes
        indices = self._nearest(z, codes)
        chosen = F.embedding(indices, codes)
        loss, parts = self._losses(z, chosen, codes, mask)
        if self.training and self._postponed is not None:
            self._postponed.append((rows, indices.flatten(), real))
        elif self.training:
            self._track(rows, indices.flatten(), real)
        return Quantized(self._estimate(z, chosen.detach()), indices[..., None], loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, dim) of indices (B, N, 1).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, codebook_size).
        """
        return F.embedding(self._check_indices(indices)[..., 0], self.codes)

    def postpone(self) -> None:
        """Keep the codebook as it is over the training forwards from here to `settle()`, as one step of several."""
        self._postponed = []

    def settle(self) -> None:
        """Take in what the training forwards since `postpone()` assigned, all at once."""
        postponed, self._postponed = self._postponed, None
        if postponed:
            rows, indices, reals = zip(*postponed, strict=True)
            x, real = torch.cat(rows), None if reals[0] is None else torch.cat(reals)
            if self.learn == "gradient":
                self._replace(x, real)
            self._track(x, torch.cat(indices), real)

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.normalize else x

    def _nearest(self, z: Tensor, codes: Tensor) -> Tensor:
        if self.metric == "cosine" and not self.normalize:
            z, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
        return nearest_code(z, codes, precision=self.precision)

    def _losses(
        self, z: Tensor, chosen: Tensor, codes: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parts = {"commitment": mean((chosen.detach() - z).square(), mask)}
        loss = self.commitment * parts["commitment"]
        if self.learn == "gradient":
            parts["codebook"] = mean((chosen - z.detach()).square(), mask)
            loss = loss + self.codebook_loss * parts["codebook"]
        if self.orthogonality > 0:
            unit = F.normalize(codes, dim=-1)
            with torch.autocast(z.device.type, enabled=False):
                parts["orthogonality"] = (unit.T @ unit).square().sum() / len(unit) ** 2 - 1 / len(unit)
            loss = loss + self.orthogonality * parts["orthogonality"]
        if self.entropy > 0 and self.training:
            entropies = self._entropies(z, codes, mask)
            parts["per_sample_entropy"], parts["batch_entropy"] = entropies
            loss = loss + self.entropy * (entropies.per_sample - entropies.batch)
        return loss, parts

    def _entropies(self, z: Tensor, codes: Tensor, mask: Tensor | None) -> Entropies:
        if self.learn != "gradient":
            codes = codes.clone()  # the moving average writes into the buffer before the gradient is taken

        def affinities(x: Tensor) -> Tensor:
            """-|x - e|^2 in LlamaGen's order of sums: a low temperature makes its rounding visible in the gradients."""
            with torch.autocast(x.device.type, enabled=False):
                scores = 2 * (x @ codes.T) - (x.square().sum(1, keepdim=True) + codes.square().sum(1))
            return scores / self.entropy_temperature

        rows, real = z.flatten(0, 1), None if mask is None else mask.flatten()
        return softmax_entropies(affinities, rows, self.codebook_size, real)

    @torch.no_grad()
    def _prepare(self, x: Tensor, real: Tensor | None) -> None:
        """Before the search: equal ranks, k-means start, replacement of dead codes that have gradients."""
        self._start(x, real)
        if self.learn == "gradient":
            self._replace(x, real)

    @torch.no_grad()
    def _start(self, x: Tensor, real: Tensor | None) -> None:
        """Equal ranks, and a k-means start where it is still to be made."""
        if not self.reference_bugs:
            align_once(self)
        if self._may_start and self.initialized is not None:
            codebook = self.codebook.detach()
            averages, flag = (self.cluster_size, self.cluster_sum), self.initialized
            start_codebook(x, real, codebook, *averages, flag, self.kmeans_iterations, self.normalize)
            self._may_start = torch.compiler.is_compiling() or not bool(flag)

    @torch.no_grad()
    def _track(self, x: Tensor, indices: Tensor, real: Tensor | None) -> None:
        """After the search: fold this step's assignments into the averages and, with EMA, move the codes."""
        if self.cluster_size is None:
            return
        if self.learn != "gradient":
            self._replace(x, real)
        counts, sums = cluster_totals(x, indices, self.codebook_size, real, over_ranks=not self.reference_bugs)
        update_average(self.cluster_size, counts, self.decay)
        if self.cluster_sum is not None:
            update_average(self.cluster_sum, sums, self.decay)
            self.codebook.copy_(self._unit(ema_codes(self.cluster_size, self.cluster_sum, self.count_floor)))
        elif self.learn == "norm_ema":
            self.codebook.copy_(norm_ema_codes(self.codebook, counts, sums, self.decay))

    def _replace(self, x: Tensor, real: Tensor | None) -> None:
        if self.cluster_size is None or self.steps is None or self.reference_bugs:
            return
        codebook, averages = self.codebook.detach(), (self.cluster_size, self.cluster_sum)
        rule = (self.dead_code_interval, self.dead_code_threshold)
        replace_dead_codes(x, real, codebook, *averages, self.steps, *rule)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._may_start, self._aligned = self.kmeans_init, False

    def extra_repr(self) -> str:
        return f"dim={self.dim}, codebook_size={self.codebook_size}, normalize={self.normalize}, learn={self.learn!r}"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"VQ expects {name} to be one of {', '.join(choices)}, got {value!r}")
