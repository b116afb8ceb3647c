"""Calls of ours for the tensors of the DAC cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo.families import DAC

__all__ = ["dac"]


def dac(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    x = case.io["audio"]
    tokenizer = DAC.from_reference(case.config, case.state)
    projected: list[Tensor] = []
    for level in tokenizer.quantizer.levels:  # type: ignore[union-attr]
        level.project_in.register_forward_hook(lambda *call: projected.append(call[-1]))
    z = tokenizer.encode_latents(tokenizer.pad(x))
    quantized = tokenizer.quantizer(z)
    inputs = torch.cat(projected, dim=-1)
    tokens = tokenizer.encode(x)

    def quantized_by(count: int) -> Tensor:
        return tokenizer.quantizer.lookup(tokens.indices[..., :count]).mT

    def decoded_by(count: int) -> Tensor:
        return tokenizer.decode(tokenizer.encode(x[:1], codebooks=count))[..., :3000]

    def computed(sound: Tensor) -> Tensor:
        """Without the samples that the reference does not compute."""
        return sound[..., : sound.shape[-1] - tokenizer.decoder.lost]

    return {
        "audio": None,
        "audio_padded_len": lambda _: torch.tensor(tokenizer.pad(x).shape[-1]),
        "forward_audio_len": lambda _: torch.tensor(tokenizer.decode(tokens).shape[-1]),
        "latents": lambda _: z.mT,
        "codes": lambda _: tokens.indices.mT,
        "projected_latents": lambda _: inputs.mT,
        "quantized": lambda _: quantized.latents.mT,
        "quantized_from_codes": lambda _: tokenizer.quantizer.lookup(tokens.indices).mT,
        "audio_out": lambda _: computed(tokenizer.decoder(quantized.latents)),
        r"quantized_nq(\d+)": lambda found: quantized_by(int(found[1])),
        r"audio_out_nq(\d+)": lambda found: decoded_by(int(found[1])),
    }
