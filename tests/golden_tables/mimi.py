"""Calls of ours for the tensors of the Mimi cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo import Tokens
from zoo.families import Mimi

__all__ = ["mimi"]


def mimi(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    tokenizer = Mimi.from_reference(case.config, case.state)
    encoder, x = tokenizer.encoder, case.io["audio"]
    padded = tokenizer.pad(x)
    features = encoder.seanet(padded)
    tokens = tokenizer.encode(x)

    def whole(tokens: Tokens) -> Tensor:
        """Decoded to whole frames, as the reference does."""
        return tokenizer.decode_latents(tokenizer.code_latents(tokens), None, (padded.shape[-1],))

    def first(count: str) -> Tokens:
        return tokenizer.encode(x, codebooks=int(count))

    def streamed() -> Tokens:
        """Frame by frame, as the reference was fed."""
        with tokenizer.streaming() as stream:
            parts = [stream.encode(frame).indices for frame in padded.split(tokenizer.hop_length, dim=-1)]
        return Tokens(torch.cat(parts, dim=1), tokens.codebook_sizes, order="time")

    def sound() -> Tensor:
        with tokenizer.streaming() as stream:
            frames = tokens.indices.split(1, dim=1)
            parts = [stream.decode(Tokens(frame, tokens.codebook_sizes, order="time")) for frame in frames]
        return torch.cat(parts, dim=-1)

    return {
        "audio": None,
        "seanet_out": lambda _: features.mT,
        "encoder_transformer_out": lambda _: encoder.transformer(features).mT,
        "latents": lambda _: tokenizer.encode_latents(padded).mT,
        "codes": lambda _: tokens.indices.mT,
        r"codes_(\d+)": lambda found: first(found[1]).indices.mT,
        "codes_streaming": lambda _: streamed().indices.mT,
        "quantized": lambda _: tokenizer.code_latents(tokens).mT,
        "audio_out": lambda _: whole(tokens),
        r"audio_out_(\d+)": lambda found: whole(first(found[1])),
        "audio_out_streaming": lambda _: sound(),
    }
