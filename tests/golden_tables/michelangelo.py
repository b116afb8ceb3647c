"""Calls of ours for the tensors of the Michelangelo cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from quantizers import KL
from zoo.families import Michelangelo

__all__ = ["michelangelo"]


def michelangelo(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    tokenizer = Michelangelo.from_reference(case.config, case.state)
    encoder, quantizer = tokenizer.encoder, tokenizer.quantizer
    assert isinstance(quantizer, KL)
    x = torch.cat([io["pc"], io["feats"]], dim=-1)
    mean, logvar = quantizer.posterior(encoder(x))
    draw = mean + (logvar / 2).exp() * io["posterior_noise"]
    shown = tokenizer(x, io["queries"])
    return {
        "pc|feats|queries|posterior_noise": None,
        "point_fourier": lambda _: encoder.fourier(io["pc"]),
        "encoder_output": lambda _: encoder.tokens(x),
        "shape_embed": lambda _: tokenizer.describe(x),
        "mean": lambda _: tokenizer.encode(x).latents,
        "logvar": lambda _: logvar,
        "z": lambda _: draw,
        "kl_per_sample": lambda _: quantizer.divergence(mean, logvar).mean(1) / quantizer.dim,
        "decoded_latents": lambda _: tokenizer.decoder.members(draw),
        "logits": lambda _: tokenizer.query(tokenizer.decode_latents(draw), io["queries"]),
        "logits_from_mean": lambda _: shown.output,
    }
