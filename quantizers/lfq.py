"""LFQ: lookup-free quantization to the signs of the latents."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .binary import BinaryQuantizer
from .entropy import Entropies, EntropyFloor, binary_entropies

__all__ = ["LFQ"]


class LFQ(BinaryQuantizer):
    """Lookup-free quantization: every channel becomes its sign, the signs are the bits of the index (arXiv 2310.05737).

        q = sign(z), sign(0) = 1
        loss = commitment * mean((q - z)^2) + entropy * (confidence * E[H(p)] - diversity * H(E[p]))

    p is the softmax over all codes c of 2 z.c / temperature (Eq. 4-5), which factorises over bits: P(bit = 1) =
    sigmoid(4 z / temperature). Means run over all elements of real positions. Entropies are in nats, and computed only
    while training. `BSQ` is the variant on the unit sphere. Other code bases, all of them with reference_bugs=True:

    - Open-MAGVIT2 (arXiv 2409.04410): entropy_floor="add";
    - WeTok's grouped quantization (arXiv 2508.05599): entropy_floor="add", several codebooks and pool_groups=True;
    - vector-quantize-pytorch: first_bit="most", entropy_floor="clamp".

    Args:
        bits: bits per codebook, 1 to 62; a codebook has 2^bits entries.
        num_codebooks: independent codebooks read in parallel, one per consecutive group of `bits` channels; entropies
            are averaged over them.
        commitment: weight of the commitment term.
        entropy: weight of the entropy terms; 0 skips them.
        confidence: weight of the per-sample entropy within the entropy terms.
        diversity: weight of the batch entropy within the entropy terms.
        temperature: of the softmax over codes.
        first_bit: whether the first channel is the "least" significant bit (Open-MAGVIT2, WeTok) or the "most"
            significant one (vector-quantize-pytorch).
        entropy_bits: the batch entropy is exact up to this many bits and the bound `binary_entropies` describes above
            it; 2^entropy_bits numbers are held.
        entropy_floor: how log p is guarded near 0, see `binary_entropies`; "none" is exact.
        pool_groups: all codebooks share one average distribution, over positions and codebooks, whose entropy is the
            batch entropy (WeTok).
        reference_bugs: sign(0) = -1, as Eq. 3 and all public code have it.

    Raises:
        ValueError: bits outside [1, 62] or another size or mode out of range.
    """

    def __init__(
        self,
        bits: int,
        *,
        num_codebooks: int = 1,
        commitment: float = 0.25,
        entropy: float = 0.1,
        confidence: float = 1.0,
        diversity: float = 1.0,
        temperature: float = 0.01,
        first_bit: Literal["least", "most"] = "least",
        entropy_bits: int = 18,
        entropy_floor: EntropyFloor = "none",
        pool_groups: bool = False,
        reference_bugs: bool = False,
    ) -> None:
        super().__init__(
            bits,
            num_codebooks=num_codebooks,
            scale=1.0,
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
        self.pool_groups = pool_groups

    def _entropies(self, z: Tensor, real: Tensor | None) -> Entropies:
        if not self.pool_groups:
            return super()._entropies(z, real)
        real = None if real is None else real.repeat_interleave(self.num_codebooks)
        logits = z.flatten(0, 1)[:, None] * (4 / self.temperature)
        return binary_entropies(logits, self.entropy_bits, self.entropy_floor, real)
