"""What of ours makes the recorded tensors of KARL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from golden import Case
from torch import Tensor

from zoo.families import KARL
from zoo.tokens import Tokens

__all__ = ["karl"]


def karl(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    tokenizer = KARL.from_reference(case.config, case.state)
    encoder, io = tokenizer.encoder, case.io
    x = io["images"] * 2 - 1
    quality = case.config["encode"]["desired_reconstruction_quality"]
    bins = encoder.bins(torch.full((len(x),), quality))
    base = encoder.patches.base(x)

    def encode(found: re.Match[str]) -> Tokens:
        return tokenizer.encode(x, quality=quality, budget=int(found[1]))

    def active(found: re.Match[str]) -> Tensor:
        """Places of the tokens that `encode` kept."""
        tokens = encode(found)
        kept = torch.zeros(len(x), int(found[1]), dtype=torch.bool)
        places = torch.arange(tokens.num_tokens) if tokens.positions is None else tokens.positions[0]
        kept[0, places[tokens.mask[0]]] = True
        return kept

    def indices(found: re.Match[str]) -> Tensor:
        """Of all tokens, halted ones too; those of the active ones are what `encode` gives."""
        every = tokenizer.quantizer(encoder(x, bins, int(found[1])).latents).indices[..., 0]
        assert torch.equal(every[active(found)], encode(found).indices.flatten())
        return every

    return {
        "images": None,
        "base_latents": lambda _: rearrange(base, "b (h w) d -> b d h w", h=encoder.grid[0]),
        "base_indices": lambda _: tokenizer.proxy_codes(base).flatten(1),
        r"encoder_latents_T(\d+)": lambda found: encoder.transform(x, bins, int(found[1]))[0],
        r"latents_pre_quant_T(\d+)": lambda found: encoder(x, bins, int(found[1])).latents,
        r"halt_prob_T(\d+)": lambda found: encoder(x, bins, int(found[1])).logits.sigmoid(),
        r"active_T(\d+)": active,
        r"indices_T(\d+)": indices,
        r"quantized_T(\d+)": lambda found: tokenizer.quantizer(encoder(x, bins, int(found[1])).latents).latents,
        r"reconstruction_T(\d+)": lambda found: (tokenizer.decode(encode(found)) + 1) / 2,
    }
