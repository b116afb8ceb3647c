"""Calls of ours for the tensors of the SpeechTokenizer case."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from golden import Case
from torch import Tensor

from zoo.families import SpeechTokenizer
from zoo.tokens import Tokens

__all__ = ["speechtokenizer"]


def speechtokenizer(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    tokenizer = SpeechTokenizer.from_reference(case.config, case.state)
    x = case.io["audio"]
    tokens, later = tokenizer.encode(x), tokenizer.encode(x, first=1)

    def untrimmed(tokens: Tokens, first: int = 0) -> Tensor:
        return tokenizer.decode(replace(tokens, size=None), first=first)

    def codes(tokens: Tokens) -> Tensor:
        return tokens.indices.permute(2, 0, 1)

    tail = replace(tokens, indices=tokens.indices[..., 1:], codebook_sizes=tokens.codebook_sizes[1:])
    return {
        "audio": None,
        "latents": lambda _: tokenizer.encode_latents(x).mT,
        "codes": lambda _: codes(tokens),
        "codes_from_level1": lambda _: codes(later),
        "quantized": lambda _: tokenizer.code_latents(tokens).mT,
        "semantic_feature": lambda _: tokenizer.semantic_features(tokens),
        "audio_out": lambda _: untrimmed(tokens),
        "audio_out_level0": lambda _: untrimmed(tokens.keep_codebooks(1)),
        "audio_out_levels1on": lambda _: untrimmed(tail, 1),
    }
