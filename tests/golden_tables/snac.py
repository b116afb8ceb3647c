"""Calls of ours for the tensors of the SNAC cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo.families import SNAC

__all__ = ["snac"]


def snac(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io, x = case.io, case.io["audio"]
    tokenizer = SNAC.from_reference(case.config, case.state)
    tokens = tokenizer.encode(x)
    noise = [io[f"noise.{stage}"] for stage in range(len(tokenizer.decoder.noise_rates))]
    padded = tokenizer.pad(x)

    def whole() -> Tensor:
        """All samples that the frames stand for."""
        sound = tokenizer.decode_latents(tokenizer.code_latents(tokens), None, (padded.shape[-1],), noise)
        assert torch.equal(sound[..., : x.shape[-1]], tokenizer.decode(tokens, noise=noise))
        return sound

    return {
        r"audio|noise\.\d": None,
        "audio_padded_len": lambda _: torch.tensor(padded.shape[-1]),
        "latents": lambda _: tokenizer.encode_latents(padded).mT,
        r"codes\.(\d)": lambda found: tokens.by_scale()[int(found[1])][..., 0],
        "quantized": lambda _: tokenizer.quantizer(tokenizer.encode_latents(padded)).latents.mT,
        "audio_out": lambda _: whole(),
    }
