"""What of ours makes the recorded tensors of TA-TiTok."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping

from einops import rearrange
from golden import Case
from torch import Tensor

from zoo.families import TATiTok

__all__ = ["ta_titok"]


def ta_titok(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    io, text = case.io, case.io["text_guidance"]
    tokenizer = TATiTok.from_reference(case.config, case.state)
    x = io["images"] * 2 - 1
    z, shown, tokens = tokenizer.encoder(x), tokenizer(x, text), tokenizer.encode(x)
    quantizer = copy.deepcopy(tokenizer.quantizer).train()
    step = quantizer(rearrange(io["latents_pre_quant"], "b d 1 n -> b n d"))

    def layout(latents: Tensor) -> Tensor:
        return rearrange(latents, "b n d -> b d 1 n")

    def recorded() -> Tensor:
        """Latents as the reference gave them to its decoder: z + (q - z) in floating point, not quite the code."""
        return rearrange(io["quantized"], "b d 1 n -> b n d")

    return {
        "images|text_guidance": None,
        "latents_pre_quant": lambda _: layout(z),
        "indices": lambda _: rearrange(tokens.indices, "b n 1 -> b 1 n"),
        "quantized": lambda _: layout(shown.quantized.latents),
        "reconstruction": lambda _: (tokenizer.decoder(recorded(), text=text) + 1) / 2,
        "reconstruction_from_indices": lambda _: (tokenizer.decode(tokens, text=text) + 1) / 2,
        "commitment_loss": lambda _: tokenizer.quantizer.commitment * shown.quantized.parts["commitment"][None],
        "codebook_loss": lambda _: shown.quantized.parts["codebook"][None],
        "quantizer_loss": lambda _: shown.quantized.loss[None],
        "train_step_quantized": lambda _: layout(step.latents),
        "train_step_indices": lambda _: rearrange(step.indices, "b n 1 -> b 1 n"),
        "train_step_codebook_after": lambda _: quantizer.codebook,
        "train_step_embed_prob_after": lambda _: quantizer.share,
    }
