"""Tokenizers of sound: any length, batches of different lengths, exact length back."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from quantizers import Quantizer
from quantizers.base import check_codebooks
from zoo.spec import TokenizerSpec
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from decoders.flow import Guidance
    from zoo.streaming import AudioStream

__all__ = ["AudioTokenizer"]

Count = TypeVar("Count", int, Tensor)


class AudioTokenizer(Tokenizer):
    """What every tokenizer of sound does around its network.

    A family overrides `encode_latents` and `decode_latents`, and `count` or `margin` where its tokens are not one per
    `hop_length` samples. Both get the real lengths of a padded batch, None where all items are full.

    Args:
        encoder: (B, C, T) to (B, N, D).
        quantizer: any.
        decoder: (B, N, D) to (B, C, T); `nn.Identity()` for families that only encode.
        sample_rate: Hz.
        channels: C, 1 for mono and 2 for stereo.
        hop_length: samples per token.

    Attributes:
        hop_length: as given.
        block: frames that can only be coded together; a frame is the latent of `hop_length` samples.
    """

    encoder: Any
    decoder: Any
    block: int = 1

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: Quantizer,
        decoder: nn.Module,
        *,
        sample_rate: int,
        channels: int,
        hop_length: int,
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.hop_length = hop_length
        self.spec = TokenizerSpec(
            modality="audio",
            input_shape=(channels, sample_rate),
            codebook_sizes=quantizer.codebook_sizes,
            dim=quantizer.dim,
            num_tokens=-(-sample_rate // hop_length),
            order="time",
            any_size=True,
            downsample=hop_length,
            sample_rate=sample_rate,
        )

    def count(self, samples: Count) -> Count:
        """Tokens of a sound of `samples` samples."""
        return -(-samples // self.hop_length)

    def codebooks_at(self, bandwidth: float) -> int:
        """How many codebooks of a residual tokenizer take `bandwidth` kbit/s, to 2 %.

        Raises:
            ValueError: no number of codebooks does.
        """
        name, rate = type(self).__name__, int(self.spec.sample_rate or 0) / self.hop_length / 1000
        if not self.quantizer.prefixes:
            raise ValueError(f"{name} uses all of its codebooks at one bandwidth; leave {bandwidth:g} kbit/s out")
        offered = list(accumulate(math.log2(size) * rate for size in self.spec.codebook_sizes))
        nearest = min(offered, key=lambda value: abs(value - bandwidth))
        if abs(nearest - bandwidth) > 0.02 * nearest:
            values = ", ".join(f"{value:.3g}" for value in offered)
            raise ValueError(f"{name} has bandwidths of {values} kbit/s, got {bandwidth:g}")
        return offered.index(nearest) + 1

    def frames(self, samples: Count) -> Count:
        """Frames of a sound of `samples` samples; as many as tokens, but for codes of several rates."""
        return self.count(samples)

    def part(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """The tokens of frames start to stop, of items that have them all, without a size."""
        latents = None if tokens.latents is None else tokens.latents[:, start:stop]
        return replace(tokens, indices=tokens.indices[:, start:stop], lengths=None, size=None, latents=latents)

    def trim(self, tokens: Tokens) -> Tokens:
        """Tokens without positions that only fill up: `trim(tokens[1])` is what the second sound has alone."""
        if tokens.lengths is None:
            return tokens
        width = int(tokens.lengths.max()) if len(tokens) else 0
        kept: dict[str, Any] = {
            name: None if (values := getattr(tokens, name)) is None else values[:, :width]
            for name in ("latents", "positions", "durations")
        }
        lengths = None if bool((tokens.lengths == width).all()) else tokens.lengths
        return replace(tokens, indices=tokens.indices[:, :width], lengths=lengths, **kept)

    def decode_part(self, tokens: Tokens, start: int, generator: torch.Generator | None = None) -> Tensor:
        """`decode` of tokens that begin at frame `start` of a longer sound."""
        return self.decode(tokens, generator=generator)

    def margin(self, samples: int) -> int:
        """Zeros that a sound of `samples` samples gets behind before it is encoded: to whole hops.

        None where the encoder has `any_length` and completes its windows in a way of its own.
        """
        return 0 if getattr(self.encoder, "any_length", False) else -samples % self.hop_length

    @property
    def latency(self) -> int:
        """Samples that must have been heard, counted from the first of a token, until its sound can come out again.

        Raises:
            ValueError: the encoder or the decoder needs the whole sound.
        """
        ahead = 0
        for causal, part, unit in (
            (self.causal_encoder, self.encoder, 1),
            (self.causal_decoder, self.decoder, self.hop_length),
        ):
            if not causal:
                if part.context is None:
                    raise ValueError(f"{type(self).__name__} needs the whole sound; its latency is the sound's length")
                ahead += part.context[1] * unit
        return self.hop_length + ahead

    @property
    def causal_encoder(self) -> bool:
        """Whether tokens depend on no later sample than those of their own hop."""
        return getattr(self.encoder, "causal", False)

    @property
    def causal_decoder(self) -> bool:
        """Whether samples depend on no later token than their own."""
        return getattr(self.decoder, "causal", False)

    @property
    def encoder_streams(self) -> bool:
        """Whether encoding can stream: the encoder is causal, or says by `streams` that it reads only so far ahead."""
        return self.causal_encoder or getattr(self.encoder, "streams", False)

    @property
    def decoder_streams(self) -> bool:
        """Whether decoding can stream: the decoder is causal, or says by `streams` that it reads only so far ahead."""
        return self.causal_decoder or getattr(self.decoder, "streams", False)

    def streaming(self, batch: int = 1, codebooks: int | None = None) -> AbstractContextManager[AudioStream]:
        """Encode and decode sounds that arrive piece by piece: `with tokenizer.streaming() as s: s.encode(chunk)`.

        Args:
            batch: sounds that arrive together, in pieces of one length.
            codebooks: how many codebooks of a residual tokenizer to use, from the first; None for all.

        Raises:
            ValueError: neither the encoder nor the decoder streams, or the tokenizer is in training mode.
        """
        from zoo.streaming import AudioStream

        return AudioStream(self, batch, codebooks)

    def pad(self, x: Tensor) -> Tensor:
        """x (B, C, T) with `margin` zeros behind."""
        margin = self.margin(x.shape[-1])
        return nn.functional.pad(x, (0, margin)) if margin else x

    def encode_latents(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, C, T), with its margin, and real lengths (B,) in samples -> latents (B, N, D)."""
        return self.encoder(x) if lengths is None else self.encoder(x, lengths)

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """Latents (B, N, D) and real lengths (B,) in tokens -> (B, C, *size)."""
        sound = self.decoder(latents) if lengths is None else self.decoder(latents, lengths)
        return sound[..., : size[0]]

    def encode(self, x: Tensor, lengths: Tensor | None = None, *, codebooks: int | None = None) -> Tokens:
        """Codes of a batch of sounds.

        Args:
            x: (B, C, T) float in [-1, 1], T >= 1, at `spec.sample_rate`.
            lengths: (B,) int64 real samples of each item from the front; what stands behind has no effect. None when
                all items are T long.
            codebooks: how many codebooks a residual tokenizer uses, from the first; None for all.

        Returns:
            Tokens with indices (B, N, Q), N = `count(T)`, lengths in tokens (None without `lengths`), size in samples.

        Raises:
            ValueError: x does not fit `spec` or is not finite, or lengths or codebooks are out of range.
        """
        return self.encode_by(self.quantizer, x, lengths, codebooks)

    def encode_by(
        self, quantizer: Quantizer, x: Tensor, lengths: Tensor | None, codebooks: int | None = None
    ) -> Tokens:
        """What `encode` does, with any quantizer of the same latents."""
        self.check_input(x, finite=True)
        option = {} if codebooks is None else {"codebooks": check_codebooks(quantizer, codebooks)}
        if lengths is None:
            z = self.encode_latents(self.pad(x).to(self.dtype))
            return self.as_tokens(quantizer(z, **option), x)
        lengths = self.check_lengths(lengths, x)
        samples = torch.arange(x.shape[-1], device=x.device)
        x = x.masked_fill((samples >= lengths[:, None])[:, None], 0)
        z, counts = self.encode_latents(self.pad(x).to(self.dtype), lengths), self.count(lengths)
        real = torch.arange(z.shape[1], device=x.device) < counts[:, None]
        tokens = self.as_tokens(quantizer(z, real, **option), x)
        indices = tokens.indices.masked_fill(~real[..., None], 0)
        return replace(tokens, indices=indices, lengths=counts, size=lengths[:, None])

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The sounds that codes stand for, as `Tokenizer.decode`.

        Returns:
            (B, C, T) with T the longest item's samples: `tokens.size`, as far as there are tokens, or `hop_length` per
            token; zeros behind an item's end.
        """
        sound = super().decode(tokens, steps=steps, generator=generator, guidance=guidance, noise=noise)
        return self.blank(sound, tokens)

    def blank(self, sound: Tensor, tokens: Tokens) -> Tensor:
        """The sound (B, C, T) of tokens with zeros behind each item's end."""
        if tokens.lengths is None and (tokens.size is None or bool((tokens.size == tokens.size[:1]).all())):
            return sound
        samples = torch.arange(sound.shape[-1], device=sound.device)
        return sound.masked_fill((samples >= self.samples(tokens)[:, None])[:, None], 0)

    def samples(self, tokens: Tokens) -> Tensor:
        """(B,) int64 samples that each item decodes to."""
        counts = tokens.mask.sum(1) if tokens.lengths is None else tokens.lengths
        whole = counts * self.hop_length
        return whole if tokens.size is None else torch.minimum(whole, tokens.size[:, 0])

    def output_size(self, tokens: Tokens) -> tuple[int, ...]:
        """(T,), of the longest item."""
        return (int(self.samples(tokens).max()) if len(tokens) else 0,)

    def code_latents(self, tokens: Tokens) -> Tensor:
        """The latents (B, N, D) of codes, zeros behind an item's end."""
        latents = super().code_latents(tokens)
        return latents if tokens.lengths is None else latents * tokens.mask[..., None]

    def check_input(self, x: Tensor, *, finite: bool = False) -> None:
        """Raise ValueError unless x fits `spec`; says what to do about missing axes and other channels."""
        channels, name = self.spec.input_shape[0], type(self).__name__
        if x.ndim == 2 and x.is_floating_point():
            raise ValueError(
                f"{name} expects (B, {channels}, T), got {tuple(x.shape)}; add the missing axis, x[:, None]"
            )
        if x.ndim == 3 and x.shape[1] != channels and x.shape[1] in (1, 2):
            change = "x.mean(1, keepdim=True)" if channels == 1 else f"x.expand(-1, {channels}, -1)"
            kinds = {1: "mono", 2: "stereo"}
            raise ValueError(f"{name} is {kinds.get(channels, channels)}, got {kinds[x.shape[1]]} sound; use {change}")
        super().check_input(x, finite=finite)

    def check_lengths(self, lengths: Tensor, x: Tensor) -> Tensor:
        """`lengths` (B,) on the device of x (B, C, T); ValueError unless they are int64 from 1 to T."""
        if lengths.dtype != torch.int64 or lengths.shape != x.shape[:1]:
            raise ValueError(f"lengths are int64 ({len(x)},), got {lengths.dtype} {tuple(lengths.shape)}")
        if lengths.numel() and (int(lengths.min()) < 1 or int(lengths.max()) > x.shape[-1]):
            raise ValueError(f"lengths lie in 1 to {x.shape[-1]} samples, got {lengths.tolist()}")
        return lengths.to(x.device)

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ValueError unless tokens fit `spec`; a residual tokenizer takes first codebooks alone."""
        count = len(tokens.codebook_sizes)
        if self.quantizer.prefixes and count and tokens.codebook_sizes == self.spec.codebook_sizes[:count]:
            return
        super().check_tokens(tokens)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Sounds of at least one sample, with the channels of `spec`."""
        return shape[0] == self.spec.input_shape[0] and shape[1] >= 1
