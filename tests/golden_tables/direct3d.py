"""Calls of ours for the tensors of the Direct3D cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from golden import Case
from torch import Tensor

from decoders.triplane import project, sample_planes
from quantizers import KL
from zoo.families import Direct3D

__all__ = ["direct3d"]


def direct3d(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    tokenizer = Direct3D.from_reference(case.config, case.state)
    cloud, queries = torch.cat([io["pc"], io["feats"]], dim=-1), io["queries"]
    quantizer = tokenizer.quantizer
    assert isinstance(quantizer, KL)
    mean, logvar = quantizer.posterior(tokenizer.encoder(cloud))

    def roll(latents: Tensor) -> Tensor:
        return rearrange(latents, "b (p h w) d -> b d h (p w)", p=3, h=tokenizer.encoder.resolution)

    def unroll(rolled: Tensor) -> Tensor:
        return rearrange(rolled, "b d h (p w) -> b (p h w) d", p=3)

    def sample() -> Tensor:
        """A draw of the bottleneck, with the recorded noise in place of its own."""
        return roll(mean + (logvar / 2).exp() * unroll(io["posterior_noise"]))

    def values() -> Tensor:
        """The field of codes, and what training sees, both with means: the reference gives no other."""
        return tokenizer.query(tokenizer.decode_latents(unroll(io["z"])), queries)

    return {
        "pc|feats|queries|posterior_noise": None,
        "encoder_tokens": lambda _: tokenizer.encoder.attend(cloud),
        "mean": lambda _: roll(mean),
        "logvar": lambda _: roll(logvar),
        "z": lambda _: sample(),
        "kl_per_sample": lambda _: quantizer.divergence(mean, logvar).mean(1) / quantizer.dim,
        "triplane": lambda _: tokenizer.decode_latents(unroll(io["z"])),
        "projected_queries": lambda _: project(queries),
        "query_features": lambda _: sample_planes(io["triplane"], queries),
        "logits": lambda _: values(),
    }
