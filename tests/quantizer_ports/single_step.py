"""References with one training step: quantized.sum() + losses."""

from typing import Any

import torch
from torch import Tensor

from quantizers import VQ, Quantized

from .common import Check, Signal, assert_close, load


def taming_vq2(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    beta = config["beta"]
    quantizer = VQ(
        config["e_dim"],
        config["n_e"],
        metric="cosine" if config["l2_normalize"] else "l2",
        commitment=1.0 if config["legacy"] else beta,
        codebook_loss=beta if config["legacy"] else 1.0,
    )
    out = run_step(quantizer, state, io)
    assert_close("loss", out.loss, io["loss"])


def llamagen_vq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    weights = {"codebook": 1.0, "commitment": config["beta"]}
    ratio = config["entropy_loss_ratio"]
    quantizer = VQ(
        config["e_dim"],
        config["n_e"],
        normalize=config["l2_norm"],
        commitment=weights["commitment"],
        codebook_loss=weights["codebook"],
        entropy=ratio,
    )
    out = run_step(quantizer, state, io)
    assert_close("codebook loss", out.parts["codebook"], io["vq_loss"])
    assert_close("commitment loss", weights["commitment"] * out.parts["commitment"], io["commit_loss"])
    if ratio > 0:
        entropy = ratio * (out.parts["per_sample_entropy"] - out.parts["batch_entropy"])
        assert_close("entropy loss", entropy, io["entropy_loss"])


def bsqvit_vq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    dim = config["embed_dim"]
    quantizer = VQ(
        dim, config["n_embed"], normalize=config["l2_norm"], commitment=config["beta"] * dim, codebook_loss=dim
    )
    out = run_step(quantizer, state, io, channel_first=config["input_format"] != "blc")
    assert_close("loss", out.loss, io["loss"])


def run_step(quantizer: VQ, state: dict[str, Tensor], io: dict[str, Tensor], channel_first: bool = True) -> Quantized:
    """One training forward and backward of quantized.sum() + loss, all shared tensors compared."""
    load(quantizer, {"codebook": state["embedding.weight"]})
    signal = Signal(io["latents"], channel_first)
    quantizer.train()
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert torch.equal(out.indices.view(io["indices"].shape), io["indices"])
    assert_close("output", signal.like(out.latents), io["quantized"])
    objective = out.latents.sum() + out.loss
    assert_close("objective", objective, io["objective"])
    objective.backward()
    assert latents.grad is not None
    assert_close("gradient", latents.grad, io["grad_latents"])
    assert quantizer.codebook.grad is not None
    assert_close("codebook gradient", quantizer.codebook.grad, io["grad_codebook"])
    quantizer.eval()
    with torch.no_grad():
        evaluated = quantizer(signal.flat(io["latents"]))
    assert torch.equal(evaluated.indices, out.indices)
    assert torch.equal(quantizer.lookup(out.indices), evaluated.latents)
    return out


def norm_ema_vq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    quantizer = VQ(
        config["embedding_dim"],
        config["n_embed"],
        normalize=True,
        learn="norm_ema",
        commitment=config["beta"],
        decay=config["decay"],
    )
    load(quantizer, {"codebook": state["embedding.weight"], "cluster_size": state["cluster_size"]})
    quantizer.train()
    signal = Signal(io["latents"], channel_first=True)
    for step, suffix in ((1, ""), (2, "_step2")):
        latents = io[f"latents{suffix}"].clone().requires_grad_()
        out = quantizer(signal.flat(latents))
        assert torch.equal(out.indices.flatten(), io[f"indices{suffix}"])
        assert_close("output", signal.like(out.latents), io[f"quantized{suffix}"])
        assert_close("loss", out.loss, io[f"loss{suffix}"])
        for name in ("codebook", "cluster_size"):
            assert_close(name, quantizer.state_dict()[name], io[f"{name}_after{step}"])
        if step == 1:
            objective = out.latents.sum() + out.loss
            assert_close("objective", objective, io["objective"])
            objective.backward()
            assert latents.grad is not None
            assert_close("gradient", latents.grad, io["grad_latents"])


PORTS: dict[str, Check] = {
    "src.IBQ.modules.vqvae.quantize.VectorQuantizer2": taming_vq2,
    "tokenizer.tokenizer_image.vq_model.VectorQuantizer": llamagen_vq,
    "transcoder.models.quantizer.vq.VectorQuantizer": bsqvit_vq,
    "tokenizer.norm_ema_quantizer.NormEMAVectorQuantizer": norm_ema_vq,
}
