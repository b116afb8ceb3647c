"""Calls of ours for the tensors of the VecSet cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from encoders.layers.points import farthest_points, take_points
from zoo.families import VecSet

__all__ = ["vecset"]


def vecset(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    tokenizer = VecSet.from_reference(case.config, case.state)
    encoder, decoder, quantizer = tokenizer.encoder, tokenizer.decoder, tokenizer.quantizer
    cloud, queries = io["pc"], io["queries"]
    chosen = farthest_points(cloud, encoder.num_tokens)
    sampled = take_points(cloud, chosen)
    memory = encoder.read.memory(encoder.features(cloud))
    z, shown = tokenizer.encode_latents(cloud), tokenizer(cloud, queries)

    def block(attention_alone: bool = False) -> Tensor:
        return (encoder.read.attend if attention_alone else encoder.read)(encoder.features(sampled), memory)

    def gaussian() -> Tensor:
        """A draw of the bottleneck, with the recorded noise in place of its own."""
        mean, logvar = quantizer.posterior(z)
        return mean + (logvar / 2).exp() * io["posterior_noise"]

    def code() -> Tensor:
        return gaussian() if "posterior_noise" in io else shown.quantized.latents

    def logits() -> Tensor:
        """The fast order of things and the paper's."""
        state, members = tokenizer.decode_latents(code()), decoder.members(code(), encoder.queries)
        values, plain = tokenizer.query(state, queries), decoder.reader.plain(encoder.features(queries), members)
        torch.testing.assert_close(-values if tokenizer.signed_distance else values, plain, rtol=1e-4, atol=1e-5)
        return values

    return {
        "pc|queries|posterior_noise": None,
        "fps_indices": lambda _: chosen,
        "sampled_pc": lambda _: sampled,
        "sampled_pc_embedding": lambda _: encoder.features(sampled),
        "query_embedding": lambda _: encoder.features(queries),
        "after_cross_attn": lambda _: block(attention_alone=True),
        "encoder_output": lambda _: block(),
        "latents": lambda _: tokenizer.encode(cloud).latents,
        "mean": lambda _: shown.quantized.latents,
        "logvar": lambda _: quantizer.posterior(z)[1],
        "kl": lambda _: quantizer.divergence(*quantizer.posterior(z)).mean(1) / quantizer.dim,
        "z": lambda _: code(),
        "decoder_latents": lambda _: decoder.members(code(), encoder.queries),
        "logits": lambda _: logits(),
        "logits_from_mean": lambda _: shown.output,
        "o": lambda _: -logits(),
    }
