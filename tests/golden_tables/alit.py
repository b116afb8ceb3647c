"""What of ours makes the recorded tensors of ALIT."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from golden import Case
from torch import Tensor

from zoo.families import ALIT

__all__ = ["alit"]


def alit(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    tokenizer = ALIT.from_reference(case.config, case.state)
    x = case.io["images"] * 2 - 1

    def after(found: re.Match[str]) -> Tensor:
        """The transformer's tokens after the roll-out that ends at the recorded length."""
        encoder, rollouts = tokenizer.encoder, tokenizer.encoder.rollouts(int(found[1]))
        sequence, _ = encoder.begin(x)
        for number in range(1, rollouts):
            sequence = encoder.extend(encoder.process(sequence), number)
        return encoder.process(sequence)[:, 1 + encoder.num_patches :]

    return {
        "images": None,
        r"latent_tokens_n(\d+)": after,
        r"latents_pre_quant_n(\d+)": lambda found: tokenizer.encoder(x, int(found[1])),
        r"indices_n(\d+)": lambda found: tokenizer.encode(x, tokens=int(found[1])).indices[..., 0],
        r"quantized_n(\d+)": lambda found: tokenizer.quantizer(tokenizer.encoder(x, int(found[1]))).latents,
        r"reconstruction_n(\d+)": lambda found: (tokenizer.decode(tokenizer.encode(x, tokens=int(found[1]))) + 1) / 2,
    }
