"""LFQ: lookup-free quantization to the signs of the latents."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Quantized, Quantizer, mean
from .entropy import Entropies, EntropyFloor, binary_entropies

__all__ = ["LFQ"]


class LFQ(Quantizer):
    """Lookup-free quantization: every channel becomes its sign, the signs are the bits of the index (arXiv 2310.05737).

        q = s * sign(z), sign(0) = -1
        loss = entropy * (E[H(p)] - diversity * H(E[p])) + commitment * mean((q - z)^2)

    p is the softmax over all codes c of 2 z.c / temperature (Eq. 4-5), which factorises over bits: P(bit = 1) =
    sigmoid(4 s z / temperature). `spherical=True` projects latents to unit length first and uses s = 1 / sqrt(bits), so
    that codes lie on the unit sphere (BSQ, arXiv 2406.07548); otherwise s = 1. Entropies are in nats, and computed only
    while training.

    Args:
        bits: bits per codebook, 1 to 62; a codebook has 2^bits entries.
        num_codebooks: independent codebooks read in parallel, one per consecutive group of `bits` channels; entropies
            are averaged over them.
        spherical: binary spherical codes.
        commitment: weight of the commitment term.
        entropy: weight of the entropy terms; 0 skips them.
        diversity: weight of the batch entropy against the per-sample entropy.
        temperature: of the softmax over codes.
        first_bit: whether the first channel is the "least" significant bit (Open-MAGVIT2) or the "most" significant one
            (vector-quantize-pytorch).
        entropy_bits: the batch entropy is exact up to this many bits and the bound `binary_entropies` describes above
            it; a joint distribution takes N x 2^(entropy_bits / 2) + 2^entropy_bits numbers.
        entropy_floor: how -p log p is guarded near 0, see `binary_entropies`.

    Raises:
        ValueError: bits outside [1, 62] or another size out of range.
    """

    def __init__(
        self,
        bits: int,
        *,
        num_codebooks: int = 1,
        spherical: bool = False,
        commitment: float = 0.25,
        entropy: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        first_bit: Literal["least", "most"] = "least",
        entropy_bits: int = 18,
        entropy_floor: EntropyFloor = "add",
    ) -> None:
        super().__init__()
        if not 1 <= bits <= 62 or num_codebooks < 1:
            raise ValueError(
                f"LFQ expects 1 to 62 bits and at least one codebook, got bits={bits}, num_codebooks={num_codebooks}; "
                "spread more bits over several codebooks"
            )
        if first_bit not in ("least", "most") or entropy_floor not in ("add", "clamp"):
            raise ValueError(
                "LFQ expects first_bit 'least' or 'most' and entropy_floor 'add' or 'clamp', "
                f"got {first_bit!r} and {entropy_floor!r}"
            )
        if temperature <= 0 or entropy_bits < 1:
            raise ValueError(f"LFQ expects temperature > 0 and entropy_bits >= 1, got {temperature} and {entropy_bits}")
        self.bits = bits
        self.num_codebooks = num_codebooks
        self.dim = bits * num_codebooks
        self.codebook_sizes = (2**bits,) * num_codebooks
        self.spherical = spherical
        self.commitment = commitment
        self.entropy = entropy
        self.diversity = diversity
        self.temperature = temperature
        self.first_bit = first_bit
        self.entropy_bits = entropy_bits
        self.entropy_floor: EntropyFloor = entropy_floor
        self._scale = 1 / math.sqrt(bits) if spherical else 1.0

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, bits * num_codebooks); parts: "commitment", and "per_sample_entropy" and "batch_entropy"
        while training with `entropy` > 0.

        Raises:
            ValueError: z is not floating-point or not (B, N, bits * num_codebooks).
        """
        z = self._check_latents(z, mask).unflatten(-1, (self.num_codebooks, self.bits))
        if self.spherical:
            z = F.normalize(z, dim=-1)
        ones = z > 0
        codes = self._codes(ones)
        indices = (ones.long() << self._shifts(z.device)).sum(-1)
        parts = {"commitment": mean((codes - z).square(), mask)}
        loss = self.commitment * parts["commitment"]
        if self.training and self.entropy > 0:
            entropies = self._entropies(z, mask)
            parts["per_sample_entropy"], parts["batch_entropy"] = entropies
            loss = loss + self.entropy * (entropies.per_sample - self.diversity * entropies.batch)
        latents = self._estimate(z, codes)
        return Quantized(latents.flatten(2), indices, loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, bits * num_codebooks) of indices (B, N, num_codebooks).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, 2^bits).
        """
        indices = self._check_indices(indices)
        ones = (indices[..., None] >> self._shifts(indices.device)) & 1
        return self._codes(ones > 0).flatten(2)

    def _codes(self, ones: Tensor) -> Tensor:
        return (ones.float() * 2 - 1) * self._scale

    def _shifts(self, device: torch.device) -> Tensor:
        shifts = torch.arange(self.bits, device=device)
        return shifts if self.first_bit == "least" else shifts.flip(0)

    def _entropies(self, z: Tensor, mask: Tensor | None) -> Entropies:
        logits = z.flatten(0, 1) * (4 * self._scale / self.temperature)
        rows = None if mask is None else mask.flatten()
        found = [binary_entropies(part, self.entropy_bits, self.entropy_floor, rows) for part in logits.unbind(1)]
        per_sample, batch = (torch.stack(terms).mean() for terms in zip(*found, strict=True))
        return Entropies(per_sample, batch)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, num_codebooks={self.num_codebooks}, spherical={self.spherical}"
