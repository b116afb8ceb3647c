"""Lookup-free quantizers: grouped (WeTok) and binary spherical (BSQ-ViT)."""

from typing import Any

import torch
from torch import Tensor

from quantizers import BSQ, LFQ, Quantizer, unpack

from .common import Check, Signal, allow_only, assert_close


def magvit_lfq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    """Open-MAGVIT2 and WeTok: one training step of quantized.sum() + entropy loss + commitment."""
    allow_only(
        config,
        dim=None,
        codebook_size=None,
        num_codebooks=None,
        sample_minimization_weight=None,
        batch_maximization_weight=None,
    )
    sample, batch = config["sample_minimization_weight"], config["batch_maximization_weight"]
    quantizer = LFQ(
        config["codebook_size"].bit_length() - 1,
        num_codebooks=config.get("num_codebooks", 1),
        commitment=1.0,
        entropy=1.0,
        confidence=sample,
        diversity=batch,
        entropy_floor="add",
        pool_groups=True,
        reference_bugs=True,
    )
    assert quantizer.dim == config["dim"]
    signal = Signal(io["latents"], channel_first=True)
    quantizer.train()
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert torch.equal(out.indices.flatten(), io["indices"])
    assert_close("output", signal.like(out.latents), io["quantized"])
    parts = out.parts
    entropy = sample * parts["per_sample_entropy"] - batch * parts["batch_entropy"]
    terms = {
        "commitment": parts["commitment"],
        "per_sample_entropy": parts["per_sample_entropy"],
        "codebook_entropy": parts["batch_entropy"],
        "entropy_aux_loss": entropy,
        "objective": out.latents.sum() + out.loss,
    }
    for name, term in terms.items():
        assert_close(name, term, io[name])
    gradients = {
        "grad_latents": "objective",
        "grad_latents_entropy_only": "entropy_aux_loss",
        "grad_latents_commit_only": "commitment",
    }
    for name, term_name in gradients.items():
        if name in io:
            (gradient,) = torch.autograd.grad(terms[term_name], latents, retain_graph=True)
            assert_close(name, gradient, io[name])
    every = torch.arange(config["codebook_size"])[None, :, None]
    codes = LFQ(quantizer.bits).lookup(every)[0]
    assert torch.equal(codes, io["codebook"])
    check_eval(quantizer, signal.flat(io["latents"]), out.indices)


def bsqvit_bsq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        embed_dim=None,
        beta=None,
        gamma0=None,
        gamma=None,
        zeta=None,
        input_format={"blc", "bchw"},
        group_size=None,
        l2_norm=None,
        inv_temperature=None,
        persample_entropy_compute={"group", "analytical"},
        cb_entropy_compute={"group"},
        soft_entropy={True},
    )
    bits, beta, group_bits, sharpness = (
        config[name] for name in ("embed_dim", "beta", "group_size", "inv_temperature")
    )
    by_bit = config.get("persample_entropy_compute", "group") == "analytical"
    shared: dict[str, Any] = {
        "entropy": config["zeta"] / sharpness,
        "confidence": config["gamma0"],
        "diversity": config["gamma"],
        "temperature": 1 / sharpness,
        "entropy_bits": 1 if by_bit else group_bits,
        "first_bit": "most",
        "reference_bugs": True,
    }
    quantizer: BSQ | LFQ
    if config.get("l2_norm", False):
        quantizer = BSQ(bits, commitment=beta, normalize=False, scaled_gradient=True, **shared)
        channels = 1
    else:  # the codes of LFQ, whose commitment is a mean over channels
        quantizer = LFQ(bits, commitment=beta * bits, **shared)
        channels = bits
    signal = Signal(io["latents"], config.get("input_format", "bchw") == "bchw")
    quantizer.train()
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert torch.equal(out.indices.view_as(io["indices"]), io["indices"])
    groups = unpack(out.indices[..., 0], (2**group_bits,) * (bits // group_bits)).flip(-1)
    assert torch.equal(groups.view_as(io["group_indices"]), io["group_indices"])
    assert_close("output", signal.like(out.latents), io["quantized"])
    terms = {
        "commit": beta * channels * out.parts["commitment"],
        "per_sample_entropy": out.parts["per_sample_entropy"],
        "codebook_entropy": out.parts["batch_entropy"],
        "loss": out.loss,
        "objective": out.latents.sum() + out.loss,
    }
    for name, term in terms.items():
        assert_close(name, term, io[name])
    for name, term_name in {"grad_latents": "objective", "grad_latents_loss_only": "loss"}.items():
        (gradient,) = torch.autograd.grad(terms[term_name], latents, retain_graph=True)
        assert_close(name, gradient, io[name])
    check_eval(quantizer, signal.flat(io["latents"]), out.indices)


def check_eval(quantizer: Quantizer, latents: Tensor, indices: Tensor) -> None:
    """Eval gives the indices of training, and codes that `lookup` repeats."""
    quantizer.eval()
    out = quantizer(latents)
    assert torch.equal(out.indices, indices)
    assert torch.equal(quantizer.lookup(indices), out.latents)


PORTS: dict[str, Check] = {
    "src.Open_MAGVIT2.modules.vqvae.lookup_free_quantize.LFQ": magvit_lfq,
    "src.WeTok.modules.vqvae.lookup_free_quantize.LFQ": magvit_lfq,
    "transcoder.models.quantizer.bsq.BinarySphericalQuantizer": bsqvit_bsq,
}
