"""Calls of ours for the tensors of the FlexTok cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from decoders import AdaptiveProjected, ClassifierFree
from zoo.families import FlexTok

__all__ = ["table"]

GUIDANCE = {"nocfg": 1.0, "cfg": ClassifierFree(3.0), "apg": AdaptiveProjected(3.0)}


def table(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    tokenizer = FlexTok.from_reference(case.config, case.state)
    x, lengths = io["images"], io["keep_k"]
    clean, tokens, size = tokenizer.to_map(x), tokenizer.encode(x), tuple(x.shape[2:])
    kept = tokens.keep(lengths)
    modulations = tokenizer.decoder.modulations(io["timesteps"])
    steps = int(case.description["notes"]["tensors"]["sample_latents_nocfg"].split()[0])

    def padded() -> Tensor:
        kept_rows = torch.arange(tokens.num_tokens) < lengths[:, None]
        return tokenizer.quantizer.lookup(tokens.indices * kept_rows[..., None])

    def velocity(full: bool) -> Tensor:
        decoder = tokenizer.decoder
        latents = tokenizer.quantizer.lookup(tokens.indices)
        registers = decoder.training_registers if full else decoder.registers
        return decoder(io["noised_latents"], modulations, registers(latents, lengths))[0]

    def both() -> Tensor:
        """The same registers in full and counted."""
        torch.testing.assert_close(velocity(True), velocity(False), rtol=1e-4, atol=1e-5)
        return velocity(False)

    def sampled(name: str) -> Tensor:
        latents = tokenizer.code_latents(kept)
        return tokenizer.sample(
            latents, kept.lengths, size, steps=steps, guidance=GUIDANCE[name], noise=io["start_noise"]
        )

    return {
        "images|keep_k|noised_latents|start_noise|timesteps": None,
        "vae_latents": lambda _: clean,
        "register_latents": lambda _: tokenizer.encoder(clean),
        "quantized": lambda _: tokenizer.quantizer(tokenizer.encoder(clean)).latents,
        "tokens": lambda _: tokens.indices[..., 0],
        "padded_quantized": lambda _: padded(),
        "velocity_cond": lambda _: both(),
        "velocity_uncond": lambda _: tokenizer.decoder(
            io["noised_latents"], modulations, tokenizer.decoder.null(len(x))
        )[0],
        r"sample_latents_(\w+)": lambda found: sampled(found[1]),
        r"sample_images_(\w+)": lambda found: tokenizer.decode(
            kept, steps=steps, guidance=GUIDANCE[found[1]], noise=io["start_noise"]
        ),
        "vae_reconstruction": lambda _: tokenizer.to_image(clean),
    }
