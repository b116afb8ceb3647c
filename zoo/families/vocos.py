"""Vocos: sound from mel spectra or from EnCodec's codes (arXiv 2306.00814)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from quantizers import Quantizer
from zoo.families.audio import AudioTokenizer
from zoo.families.codec import AudioCodec
from zoo.families.vocos_reference import convert, reference_recipe
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

__all__ = ["Vocos"]


class Vocos(AudioCodec):
    """A vocoder as a tokenizer: features that need not be learned, and a decoder that makes sound of them.

    - Mel spectra: `encoders.MelEncoder`, `quantizers.Identity`. The code is continuous: `Tokens.latents` holds the
      log-mel spectrum (B, N, D), and `decode` takes such a spectrum from anywhere.
    - EnCodec's codes: its encoder and its residual codebooks, both kept as they are, and a decoder whose norms are
      chosen by the bitrate. `decode` takes tokens of EnCodec.
    - Without an encoder (None) it decodes only.

    Args:
        encoder: (B, C, T) to (B, N, D), or None.
        quantizer: reads `encoder.dim` channels.
        decoder: a `decoders.VocosDecoder`.
        sample_rate: Hz.
        codebooks: numbers of codebooks in use, rising, one for each condition of the decoder: a code of Q codebooks is
            decoded under the first condition that has at least Q. Training draws one of them for each batch. Empty
            where the number never changes.

    Attributes:
        bandwidth_id: the decoder's condition; None to choose it by the number of codebooks (the first where there is no
            choice).

    Raises:
        ValueError: widths, hops or channels of the parts differ, or `codebooks` does not fit the decoder.
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        quantizer: Quantizer,
        decoder: Any,
        sample_rate: int,
        codebooks: Sequence[int] = (),
    ) -> None:
        if encoder is not None:
            super().__init__(encoder, quantizer, decoder, sample_rate)
        else:
            if quantizer.dim != decoder.dim:
                raise ValueError(f"quantizer.dim={quantizer.dim} in front of decoder.dim={decoder.dim}; set one")
            shape = {"channels": decoder.channels, "hop_length": decoder.hop_length}
            AudioTokenizer.__init__(
                self, NoEncoder(bool(codebooks)), quantizer, decoder, sample_rate=sample_rate, **shape
            )
        if codebooks and (list(codebooks) != sorted(set(codebooks)) or len(codebooks) != decoder.conditions):
            raise ValueError(
                f"codebooks rise, one for each of the decoder's {decoder.conditions} conditions, got {list(codebooks)}"
            )
        self.codebooks = tuple(codebooks)
        self.bandwidth_id: int | None = None

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder."""
        return not isinstance(self.encoder, NoEncoder)

    def condition(self, codebooks: int) -> int:
        """The decoder's condition for a code of so many codebooks."""
        if self.bandwidth_id is not None:
            return self.bandwidth_id
        return sum(count < codebooks for count in self.codebooks[:-1])

    def decode_tokens(self, tokens: Tokens) -> Tensor:
        """Sound (B, C, T) of checked tokens, under the condition that their number of codebooks chooses."""
        latents, size = self.code_latents(tokens), self.output_size(tokens)
        return self.sound(latents, tokens.lengths, size, self.condition(len(tokens.codebook_sizes)))

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """Latents (B, N, D) of all codebooks and real lengths (B,) in tokens -> (B, C, *size)."""
        return self.sound(latents, lengths, size, self.condition(len(self.spec.codebook_sizes)))

    def sound(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...], condition: int) -> Tensor:
        """What the decoder makes of latents under a condition, cut to (B, C, *size)."""
        return self.decoder(latents, lengths, condition)[..., : size[0]]

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`; where there are several numbers of codebooks, training uses one of them at random."""
        if not self.training or not self.codebooks:
            return super().forward(x)
        self.check_input(x)
        row = int(torch.randint(len(self.codebooks), ()))
        z = self.encode_latents(self.pad(x).to(self.dtype))
        quantized = self.quantizer(z, codebooks=self.codebooks[row])
        return Reconstruction(self.sound(quantized.latents.to(self.dtype), None, tuple(x.shape[2:]), row), quantized)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of gemelo-ai/vocos; see `zoo.families.vocos_reference`."""
        return reference_recipe(config)

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of gemelo-ai/vocos -> ours; what only training reads is left out."""
        return convert(state)

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """As `Tokenizer.from_reference`; a file of the EnCodec variant without EnCodec's encoder only decodes."""
        return super().from_reference({**config, "encoder_stored": has_encoder(state)}, state)


class NoEncoder(nn.Module):
    """In the place of an encoder.

    Args:
        codes: whether EnCodec's codes are decoded, else features.
    """

    any_length, context = True, (0, 0)

    def __init__(self, codes: bool) -> None:
        super().__init__()
        self.elsewhere = "EnCodec (zoo.load('encodec_24khz'))" if codes else "what the features were made with"

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Raise ValueError: there is no encoder."""
        raise ValueError(f"this Vocos has no encoder: encode with {self.elsewhere} and decode here")


def has_encoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds EnCodec's encoder, or is of a variant that needs none."""
    names = [key.split(".")[1] for key in state if key.startswith("feature_extractor.")]
    return "codebook_weights" not in names or "encodec" in names
