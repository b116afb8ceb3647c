"""Any encoder, any quantizer and any decoder of sound put together."""

from __future__ import annotations

from typing import Any

from quantizers import Quantizer
from zoo.families.audio import AudioTokenizer

__all__ = ["AudioCodec"]


class AudioCodec(AudioTokenizer):
    """A codec by recipe: parts of equal width and hop, one token per `encoder.hop_length` samples.

    Args:
        encoder: sounds (B, C, T) to latents (B, N, D); has `dim`, `hop_length`, `channels` and `context`.
        quantizer: reads `encoder.dim` channels.
        decoder: latents (B, N, D) to sounds (B, C, N * hop_length); has the same attributes.
        sample_rate: Hz.

    Raises:
        ValueError: widths, hops or channels of the parts differ.
    """

    def __init__(self, encoder: Any, quantizer: Quantizer, decoder: Any, sample_rate: int) -> None:
        for name in ("hop_length", "channels"):
            if getattr(encoder, name) != getattr(decoder, name):
                raise ValueError(f"encoder.{name}={getattr(encoder, name)}, decoder.{name}={getattr(decoder, name)}")
        super().__init__(
            encoder,
            quantizer,
            decoder,
            sample_rate=sample_rate,
            channels=encoder.channels,
            hop_length=encoder.hop_length,
        )
        self.check_widths()
