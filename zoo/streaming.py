"""Encoding and decoding sound that arrives piece by piece."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from encoders.layers.streaming import Stream
from quantizers.base import check_codebooks
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.families.audio import AudioTokenizer

__all__ = ["AudioStream"]


class AudioStream:
    """A sound on its way through a tokenizer that streams; use it as a context manager.

    What comes out, put end to end, equals `encode` and `decode` of the whole, however it is cut into pieces. Encoding
    and decoding are independent of each other: either may be used alone. No gradients are kept.

    Args:
        tokenizer: in eval mode, with an encoder that streams, such a decoder, or both.
        batch: sounds that arrive together.
        codebooks: how many codebooks of a residual tokenizer `encode` uses, from the first; None for all.

    Raises:
        ValueError: neither part streams, the tokenizer is training, or it cannot do with that many codebooks.
    """

    def __init__(self, tokenizer: AudioTokenizer, batch: int = 1, codebooks: int | None = None) -> None:
        if not (tokenizer.encoder_streams or tokenizer.decoder_streams):
            raise ValueError(
                f"{type(tokenizer).__name__} reads ahead: neither encoder nor decoder streams; "
                "encode long sounds in overlapping chunks instead"
            )
        if tokenizer.training:
            raise ValueError("a stream needs the tokenizer in eval mode; call tokenizer.eval() first")
        self.tokenizer, self.batch = tokenizer, batch
        self._option = {} if codebooks is None else {"codebooks": check_codebooks(tokenizer.quantizer, codebooks)}
        self._open = False
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin a new sound."""
        self._encoding, self._decoding = Stream(), Stream()
        self._heard = self._coded = 0  # samples read; samples that the tokens given out stand for
        self._due = self._told = 0  # samples that the tokens read stand for; samples given out

    def __enter__(self) -> Self:
        self._open = True
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self.reset()

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tokens:
        """Read a piece of the sound.

        Args:
            chunk: (B, C, t) float in [-1, 1], any t >= 0.

        Returns:
            The tokens that have become final, none or more; `size` says how many samples they stand for.

        Raises:
            ValueError: another shape, NaN or infinity, an encoder that does not stream, or a sound that has ended.
        """
        self._check("encode", self._encoding)
        self._check_chunk(chunk)
        self._heard += chunk.shape[-1]
        return self._encode(chunk)

    @torch.no_grad()
    def finish_encode(self) -> Tokens:
        """The tokens of what is left: the sound ends here."""
        self._check("encode", self._encoding)
        tokenizer = self.tokenizer
        rest = torch.zeros(
            self.batch, tokenizer.spec.input_shape[0], tokenizer.margin(self._heard), device=tokenizer.device
        )
        self._encoding.last = True
        return self._encode(rest)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Read tokens, as `encode` or any other source gives them out.

        Args:
            tokens: of B items, all of one length, 0 or more positions; where they carry a `size`, it is the samples
                that these tokens stand for.

        Returns:
            (B, C, t) the samples that have become final.

        Raises:
            ValueError: tokens of another tokenizer or batch, a decoder that does not stream, or a sound that has ended.
        """
        self._check("decode", self._decoding)
        if len(tokens) != self.batch or (tokens.lengths is not None and bool((~tokens.mask).any())):
            raise ValueError(f"a stream of {self.batch} sounds reads as many items of one length, got {len(tokens)}")
        whole = tokens.num_tokens * self.tokenizer.hop_length
        self._due += whole if tokens.size is None else min(whole, int(tokens.size.max()))
        return self._decode(self.tokenizer.code_latents(tokens))

    @torch.no_grad()
    def finish_decode(self) -> Tensor:
        """The samples of what is left: the sound ends here."""
        self._check("decode", self._decoding)
        self._decoding.last = True
        tokenizer = self.tokenizer
        return self._decode(
            torch.zeros(self.batch, 0, tokenizer.spec.dim, device=tokenizer.device, dtype=tokenizer.dtype)
        )

    def _encode(self, chunk: Tensor) -> Tokens:
        tokenizer, stream = self.tokenizer, self._encoding
        z = tokenizer.encoder(chunk.to(tokenizer.dtype), stream=stream)
        tokens = tokenizer.as_tokens(tokenizer.quantizer(z, **self._option), chunk)
        stands = min(tokens.num_tokens * tokenizer.hop_length, self._heard - self._coded)
        self._coded += stands
        size = torch.full((self.batch, 1), stands, device=chunk.device)
        return replace(tokens, size=size)

    def _decode(self, latents: Tensor) -> Tensor:
        sound = self.tokenizer.decoder(latents, stream=self._decoding)
        sound = sound[..., : self._due - self._told]
        self._told += sound.shape[-1]
        return sound

    def _check(self, verb: str, stream: Stream) -> None:
        name = type(self.tokenizer).__name__
        if not self._open:
            raise ValueError("a stream is used inside `with tokenizer.streaming() as s:`")
        part = "encoder" if verb == "encode" else "decoder"
        if not getattr(self.tokenizer, f"{part}_streams"):
            raise ValueError(f"the {part} of {name} reads ahead and cannot stream; {verb} the whole sound instead")
        if stream.last:
            raise ValueError(f"this sound has ended (finish_{verb}); call reset() to begin another")

    def _check_chunk(self, chunk: Tensor) -> None:
        channels = self.tokenizer.spec.input_shape[0]
        if not chunk.is_floating_point() or chunk.ndim != 3 or chunk.shape[:2] != (self.batch, channels):
            raise ValueError(
                f"a chunk is float ({self.batch}, {channels}, t), got {chunk.dtype} {tuple(chunk.shape)}; "
                "streaming(batch=...) says how many sounds arrive together"
            )
        if not torch.isfinite(chunk).all():
            raise ValueError("a chunk is finite, in [-1, 1]; got NaN or infinity")
