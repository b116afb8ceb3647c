"""What the quantizers to signs share: bits, indices, entropies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .base import Quantized, Quantizer, mean
from .entropy import Entropies, EntropyFloor, binary_entropies

__all__ = ["BinaryQuantizer"]


class BinaryQuantizer(Quantizer):
    """Base of LFQ and BSQ: every channel becomes `scale` times its sign, and the signs are the bits of the index.

        q = scale * sign(z)
        loss = commitment * |q - z|^2 + entropy * (confidence * E[H(p)] - diversity * H(E[p]))

    p is the softmax over all codes c of 2 z.c / temperature, which factorises over bits: P(bit = 1) =
    sigmoid(4 scale z / temperature). Indices are integer arithmetic throughout: float32 sums of powers of two are wrong
    from 25 bits on.
    """

    def __init__(
        self,
        bits: int,
        *,
        num_codebooks: int,
        scale: float,
        commitment: float,
        entropy: float,
        confidence: float,
        diversity: float,
        temperature: float,
        first_bit: Literal["least", "most"],
        entropy_bits: int,
        entropy_floor: EntropyFloor,
        reference_bugs: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not 1 <= bits <= 62 or num_codebooks < 1:
            raise ValueError(
                f"{name} expects 1 to 62 bits and at least one codebook, got bits={bits}, "
                f"num_codebooks={num_codebooks}; spread more bits over several codebooks"
            )
        if first_bit not in ("least", "most") or entropy_floor not in ("none", "add", "clamp"):
            raise ValueError(
                f"{name} expects first_bit 'least' or 'most' and entropy_floor 'none', 'add' or 'clamp', "
                f"got {first_bit!r} and {entropy_floor!r}"
            )
        if temperature <= 0 or entropy_bits < 1:
            raise ValueError(
                f"{name} expects temperature > 0 and entropy_bits >= 1, got {temperature} and {entropy_bits}"
            )
        self.bits = bits
        self.num_codebooks = num_codebooks
        self.dim = bits * num_codebooks
        self.codebook_sizes = (2**bits,) * num_codebooks
        self.commitment = commitment
        self.entropy = entropy
        self.confidence = confidence
        self.diversity = diversity
        self.temperature = temperature
        self.first_bit = first_bit
        self.entropy_bits = entropy_bits
        self.entropy_floor: EntropyFloor = entropy_floor
        self.reference_bugs = reference_bugs
        self._scale = scale

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, bits * num_codebooks).

        Parts: "commitment", and "per_sample_entropy" and "batch_entropy" while training with `entropy` not 0.
        """
        z = self._place(self._check_latents(z, mask).unflatten(-1, (self.num_codebooks, self.bits)))
        ones = z > 0 if self.reference_bugs else z >= 0
        codes = self._codes(ones)
        indices = (ones.long() << self._shifts(z.device)).sum(-1)
        parts = {"commitment": self._commitment(codes - z, mask)}
        loss = self.commitment * parts["commitment"]
        if self.training and self.entropy != 0:
            entropies = self._entropies(z.flatten(0, 1), None if mask is None else mask.flatten())
            parts["per_sample_entropy"], parts["batch_entropy"] = entropies
            gain = self.confidence * entropies.per_sample - self.diversity * entropies.batch
            loss = loss + self.entropy * gain
        return Quantized(self._estimate(z, codes).flatten(2), indices, loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, N, bits * num_codebooks) of indices (B, N, num_codebooks).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, 2^bits).
        """
        indices = self._check_indices(indices)
        ones = indices[..., None] >> self._shifts(indices.device) & 1
        return self._codes(ones).flatten(2)

    def _place(self, z: Tensor) -> Tensor:
        """Latents (B, N, Q, bits) as they are compared with codes."""
        return z

    def _commitment(self, error: Tensor, mask: Tensor | None) -> Tensor:
        return mean(error.square(), mask)

    def _entropies(self, z: Tensor, real: Tensor | None) -> Entropies:
        """Entropies of latents (B * N, Q, bits); `real` (B * N,) is False at padding."""
        return binary_entropies(z * (4 * self._scale / self.temperature), self.entropy_bits, self.entropy_floor, real)

    def _codes(self, ones: Tensor) -> Tensor:
        return ones.float() * (2 * self._scale) - self._scale

    def _shifts(self, device: torch.device) -> Tensor:
        shifts = torch.arange(self.bits, device=device)
        return shifts if self.first_bit == "least" else shifts.flip(0)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, num_codebooks={self.num_codebooks}"
