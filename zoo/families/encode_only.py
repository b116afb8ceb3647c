"""Tokenizers of speech that only encode: what turns their tokens into sound is another model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from quantizers import Quantizer
from zoo.families.audio import AudioTokenizer
from zoo.tokens import Tokens

__all__ = ["EncodeOnly"]


class EncodeOnly(AudioTokenizer):
    """An encoder and a quantizer without a decoder; `spec.decodes` is False.

    `encode` and `code_latents` work as everywhere. `decode` and `forward` raise, so that nothing is trained or measured
    by a sound that does not exist.

    Args:
        encoder: (B, C, T) to (B, N, D), with `sample_rate`, `channels` and `hop_length`.
        quantizer: any.

    Attributes:
        elsewhere: a sentence that says what decodes these tokens.

    Raises:
        ValueError: the quantizer reads another width than the encoder gives.
    """

    elsewhere: ClassVar[str]

    def __init__(self, encoder: Any, quantizer: Quantizer) -> None:
        if encoder.dim != quantizer.input_dim:
            raise ValueError(f"widths differ: encoder.dim={encoder.dim}, the quantizer reads {quantizer.input_dim}")
        super().__init__(
            encoder,
            quantizer,
            nn.Identity(),
            sample_rate=encoder.sample_rate,
            channels=encoder.channels,
            hop_length=encoder.hop_length,
        )
        self.spec = replace(self.spec, decodes=False)

    def decode_tokens(self, tokens: Tokens) -> NoReturn:
        """Raise ValueError: there is no decoder."""
        raise ValueError(f"{type(self).__name__} turns speech into tokens and has no decoder. {self.elsewhere}")

    def forward(self, x: Tensor) -> NoReturn:
        """Raise ValueError: there is nothing to reconstruct."""
        raise ValueError(
            f"{type(self).__name__} has no decoder, so there is no reconstruction to train or to measure; "
            "use encode(x), or encode_latents(x) for features with gradients"
        )
