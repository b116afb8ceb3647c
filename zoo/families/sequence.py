"""What the 1D tokenizers of square images have in common."""

from __future__ import annotations

from typing import Any

from quantizers import Quantizer
from zoo.spec import Order, TokenizerSpec

__all__ = ["sequence_spec"]


def sequence_spec(
    encoder: Any,
    quantizer: Quantizer,
    *,
    num_tokens: int | None = None,
    order: Order = "coarse_to_fine",
    flexible: bool = True,
    scales: tuple[int, ...] = (),
) -> TokenizerSpec:
    """The spec of N tokens without a grid, for images (B, 3, S, S).

    Args:
        encoder: has `image_size` and `num_tokens`.
        quantizer: what its latents are quantized with.
        num_tokens: N, where it is not the encoder's.
        order, flexible, scales: as in `TokenizerSpec`.
    """
    return TokenizerSpec(
        modality="image",
        input_shape=(3, encoder.image_size, encoder.image_size),
        codebook_sizes=quantizer.codebook_sizes,
        dim=quantizer.dim,
        num_tokens=encoder.num_tokens if num_tokens is None else num_tokens,
        order=order,
        flexible=flexible,
        scales=scales,
    )
