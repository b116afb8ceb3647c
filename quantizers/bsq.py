"""BSQ: lookup-free quantization on the unit sphere."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .base import mean
from .binary import BinaryQuantizer
from .entropy import EntropyFloor

__all__ = ["BSQ"]


class BSQ(BinaryQuantizer):
    """Binary spherical quantization: unit vectors to the nearest corner of the cube in the sphere (arXiv 2406.07548).

        z <- z / |z|
        q = sign(z) / sqrt(bits), sign(0) = 1
        loss = commitment * E[|q - z|^2] + entropy * (confidence * E[H(p)] - diversity * H(E[p]))

    p is the softmax over all codes c of 2 z.c / temperature, which factorises over bits: P(bit = 1) =
    sigmoid(4 z / (sqrt(bits) temperature)). The per-sample entropy is exact, the batch entropy a sum over groups of
    `entropy_bits` bits. Entropies are in nats, and computed only while training. Unlike `LFQ`, latents and codes have
    length 1, so that no latent is further than sqrt(2) from its code, and the commitment sums over channels.

    BSQ-ViT's settings are commitment = beta, entropy = zeta / inv_temperature, confidence = gamma0, diversity = gamma,
    temperature = 1 / inv_temperature, entropy_bits = group_size (1 when persample_entropy_compute is "analytical": its
    per-sample entropy is the same number, its batch entropy becomes one per bit), scaled_gradient=True,
    normalize=False (its model normalises) and reference_bugs=True. vector-quantize-pytorch's spherical LFQ is
    temperature=0.01, entropy_floor="clamp", entropy_bits=18 and commitment = weight / bits.

    Args:
        bits: bits per codebook, 1 to 62; a codebook has 2^bits entries.
        num_codebooks: independent codebooks read in parallel, one per consecutive group of `bits` channels, each on a
            sphere of its own; losses are averaged over them.
        normalize: project latents to unit length; False when they come so.
        commitment: weight of the commitment term.
        entropy: weight of the entropy terms; 0 skips them.
        confidence: weight of the per-sample entropy within the entropy terms.
        diversity: weight of the batch entropy within the entropy terms.
        temperature: of the softmax over codes.
        scaled_gradient: latents returned carry 1 / sqrt(bits) of their gradient to z, which is what becomes of the
            straight-through estimator when the scale is applied after it, as in BSQ-ViT. By default the whole gradient:
            z and q are both unit vectors.
        first_bit: whether the first channel is the "most" significant bit (BSQ-ViT) or the "least" significant one.
        entropy_bits: the batch entropy is exact up to this many bits, and the bound `binary_entropies` describes above
            it.
        entropy_floor: how log p is guarded near 0, see `binary_entropies`; "none" is exact.
        reference_bugs: sign(0) = -1, as public code has it.

    Raises:
        ValueError: bits outside [1, 62] or another size or mode out of range.
    """

    def __init__(
        self,
        bits: int,
        *,
        num_codebooks: int = 1,
        normalize: bool = True,
        commitment: float = 0.0,
        entropy: float = 0.1,
        confidence: float = 1.0,
        diversity: float = 1.0,
        temperature: float = 1.0,
        scaled_gradient: bool = False,
        first_bit: Literal["least", "most"] = "most",
        entropy_bits: int = 9,
        entropy_floor: EntropyFloor = "none",
        reference_bugs: bool = False,
    ) -> None:
        super().__init__(
            bits,
            num_codebooks=num_codebooks,
            scale=1 / math.sqrt(max(bits, 1)),
            commitment=commitment,
            entropy=entropy,
            confidence=confidence,
            diversity=diversity,
            temperature=temperature,
            first_bit=first_bit,
            entropy_bits=entropy_bits,
            entropy_floor=entropy_floor,
            reference_bugs=reference_bugs,
        )
        self.normalize = normalize
        self.scaled_gradient = scaled_gradient

    def _place(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.normalize else z

    def _commitment(self, error: Tensor, mask: Tensor | None) -> Tensor:
        return mean(error.square().sum(-1), mask)

    def _estimate(self, z: Tensor, codes: Tensor) -> Tensor:
        return super()._estimate(z * self._scale if self.scaled_gradient else z, codes)
