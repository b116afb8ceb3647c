"""Shared, projected and product mappings: SimVQ, IBQ, TokenFlow, FQGAN, TokenBridge."""

from typing import Any

import torch
from torch import Tensor

from quantizers import IBQ, VQ, DimensionWise, Product, Quantizer, SharedVQ, SimVQ

from .common import Check, Signal, allow_only, assert_close, load
from .vqp import run_vqp


def vqp_simvq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dim=None,
        codebook_size=None,
        frozen_codebook_dim=None,
        rotation_trick=None,
        channel_first=None,
        input_to_quantize_commit_loss_weight=None,
        commitment_weight=None,
    )
    weight = config.get("commitment_weight", 1.0)
    quantizer = SimVQ(
        config["dim"],
        config["codebook_size"],
        config.get("frozen_codebook_dim"),
        commitment=weight * config.get("input_to_quantize_commit_loss_weight", 0.25),
        codebook_loss=weight,
        estimator="rotation" if config.get("rotation_trick", True) else "straight_through",
    )
    load(quantizer, {"codebook": state["frozen_codebook"], "transform": state["code_transform.weight"]})
    loss = quantizer.eval()(Signal(io["latents"], config.get("channel_first", False)).flat(io["latents"])).loss
    assert_close("eval loss", loss, io["eval.loss.total"])
    run_vqp(quantizer, {}, io, config.get("channel_first", False), parts={}, undetached=False)
    assert quantizer.transform.grad is not None
    assert_close("gradient of W", quantizer.transform.grad, io["train.grad.code_transform.weight"])


def ibq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        n_e=None,
        e_dim=None,
        beta=None,
        use_entropy_loss=None,
        entropy_temperature=None,
        cosine_similarity=None,
        sample_minimization_weight=None,
        batch_maximization_weight=None,
    )
    sample, batch = config.get("sample_minimization_weight", 1.0), config.get("batch_maximization_weight", 1.0)
    with_entropy = config.get("use_entropy_loss", False)
    quantizer = IBQ(
        config["e_dim"],
        config["n_e"],
        metric="cosine" if config.get("cosine_similarity", False) else "dot",
        codebook_loss=config.get("beta", 0.25),
        entropy=sample if with_entropy else 0.0,
        diversity=batch / sample,
        entropy_temperature=config.get("entropy_temperature", 0.01),
    )
    load(quantizer, {"codebook": state["embedding.weight"]})
    quantizer.train()
    signal = Signal(io["latents"], channel_first=True)
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert torch.equal(out.indices.flatten(), io["indices"].flatten())
    assert_close("output", signal.like(out.latents), io["quantized"])
    quant_loss = out.parts["propagation"] + out.parts["commitment"] + config.get("beta", 0.25) * out.parts["codebook"]
    assert_close("quantization loss", quant_loss, io["quant_loss"])
    if with_entropy:
        per_sample, average = out.parts["per_sample_entropy"], out.parts["batch_entropy"]
        assert_close("per-sample entropy", per_sample, io["sample_entropy"])
        assert_close("batch entropy", average, io["avg_entropy"])
        assert_close("entropy loss", sample * per_sample - batch * average, io["entropy_loss"])
    step(quantizer, [latents], out.latents.sum() + out.loss, io, {"codebook": quantizer.codebook})
    check_eval(quantizer, signal.flat(io["latents"]), out.indices)


def tokenflow(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, n_e=None, split=None, beta=None, entropy_loss_ratio=None, l2_norm=None, show_usage=None)
    quantizer = SharedVQ(
        config["split"],
        config["n_e"],
        normalize=config["l2_norm"],
        commitment=config["beta"],
        entropy=config["entropy_loss_ratio"],
    )
    names = ("embedding_vqkd.weight", "embedding_vqgan.weight") if config["l2_norm"] else ("embedding.weight",)
    load(quantizer, {"codebook": torch.cat([state[name] for name in names], dim=1)})
    quantizer.train()
    signal = Signal(io["latents"], channel_first=True)
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert torch.equal(out.indices.flatten(), io["indices"].flatten())
    assert_close("output", signal.like(out.latents), io["quantized"])
    assert_llamagen_losses(quantizer, out.parts, io, "")
    step(quantizer, [latents], out.latents.sum() + out.loss, io, {})
    assert quantizer.codebook.grad is not None
    split_grad = quantizer.codebook.grad.split(config["split"], dim=1)
    parts = signal.flat(io["latents"]).split(config["split"], dim=-1)
    codes = quantizer.codes.split(config["split"], dim=1)
    for name, logged, gradient, part, code in zip(
        ("sem", "pix"), ("vqkd_d_norm", "vqgan_d_norm"), split_grad, parts, codes, strict=True
    ):
        if f"grad_codebook_{name}" in io:
            assert_close(f"{name} codebook gradient", gradient, io[f"grad_codebook_{name}"])
        part = torch.nn.functional.normalize(part, dim=-1) if config["l2_norm"] else part
        distances = torch.cdist(part.double(), code.double()).square()
        assert_close(logged, distances.square().sum(-1).mean(), io[logged])
    check_eval(quantizer, signal.flat(io["latents"]), out.indices)


def fqgan(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, n_e=None, e_dim=None, beta=None, entropy_loss_ratio=None, l2_norm=None,
               disentanglement_ratio=None)  # fmt: skip
    names = [key.removeprefix("latents_") for key in ("latents_sem", "latents_vis") if key in io]
    members = [
        VQ(
            config["e_dim"],
            config["n_e"],
            normalize=config["l2_norm"],
            commitment=config["beta"],
            entropy=config["entropy_loss_ratio"],
        )
        for _ in names
    ]
    quantizer = Product(members, disentanglement=config["disentanglement_ratio"], reduce="sum")
    weights = {name: state[f"quantize_{name}.embedding.weight"] for name in names}
    load(quantizer, {f"quantizers.{i}.codebook": weights[name] for i, name in enumerate(names)})
    quantizer.train()
    signal = Signal(io["latents_sem"], channel_first=True)
    latents = [io[f"latents_{name}"].clone().requires_grad_() for name in names]
    out = quantizer(torch.cat([signal.flat(z) for z in latents], dim=-1))
    outputs = out.latents.chunk(len(names), dim=-1)
    for i, (name, output) in enumerate(zip(names, outputs, strict=True)):
        assert torch.equal(out.indices[..., i].flatten(), io[f"indices_{name}"].flatten())
        assert_close(f"{name} output", signal.like(output), io[f"quantized_{name}"])
        alone = members[i](signal.flat(io[f"latents_{name}"]))
        assert_llamagen_losses(members[i], alone.parts, io, f"_{name}")
    for part, scale in (("codebook", 1.0), ("commitment", config["beta"])):
        total = sum(io[f"{'vq' if part == 'codebook' else 'commit'}_loss_{name}"] for name in names)
        assert_close(part, scale * out.parts[part], torch.as_tensor(total))
    overlap = config["disentanglement_ratio"] * out.parts["disentanglement"]
    assert_close("disentanglement", overlap, io["disentangle_loss"])
    codebooks = {f"codebook_{name}": member.codebook for name, member in zip(names, members, strict=True)}
    step(quantizer, latents, out.latents.sum() + out.loss, io, codebooks, [f"latents_{name}" for name in names])
    check_eval(quantizer, torch.cat([signal.flat(io[f"latents_{name}"]) for name in names], dim=-1), out.indices)


def tokenbridge(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, bits=None, quant_min=None, quant_max=None, std_range=None)
    signal = Signal(io["latents"], channel_first=True)
    latents = signal.flat(io["latents"])
    quantizer = DimensionWise(
        latents.shape[-1],
        config["bits"],
        low=config["quant_min"],
        high=config["quant_max"],
        span=config["std_range"],
    ).eval()
    assert_close("centroids", quantizer.centroids.float(), io["centroids"])
    assert_close("boundaries", quantizer.boundaries.float(), io["boundaries"])
    out = quantizer(latents)
    assert torch.equal(signal.like(out.indices), io["indices"])
    assert_close("output", signal.like(out.latents), io["quantized"])
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    assert out.loss == 0


def assert_llamagen_losses(quantizer: VQ, parts: dict[str, Tensor], io: dict[str, Tensor], suffix: str) -> None:
    """The three losses of LlamaGen's quantizer and its descendants, each with its weight."""
    assert_close("codebook loss", parts["codebook"], io[f"vq_loss{suffix}"])
    assert_close("commitment loss", quantizer.commitment * parts["commitment"], io[f"commit_loss{suffix}"])
    if quantizer.entropy > 0:
        entropy = quantizer.entropy * (parts["per_sample_entropy"] - parts["batch_entropy"])
        assert_close("entropy loss", entropy, io[f"entropy_loss{suffix}"])


def step(
    quantizer: Quantizer,
    latents: list[Tensor],
    objective: Tensor,
    io: dict[str, Tensor],
    parameters: dict[str, Tensor],
    names: list[str] | None = None,
) -> None:
    """Backward of the objective, compared in value and gradients."""
    assert_close("objective", objective, io["objective"])
    objective.backward()
    for name, z in zip(names or ["latents"], latents, strict=True):
        assert z.grad is not None
        assert_close(f"gradient of {name}", z.grad, io[f"grad_{name}"])
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert_close(f"gradient of {name}", parameter.grad, io[f"grad_{name}"])


def check_eval(quantizer: Quantizer, latents: Tensor, indices: Tensor) -> None:
    """The same codes in eval, and their exact lookup."""
    quantizer.eval()
    out = quantizer(latents)
    assert torch.equal(out.indices, indices)
    assert torch.equal(quantizer.lookup(indices), out.latents)


PORTS: dict[str, Check] = {
    "vector_quantize_pytorch.sim_vq.SimVQ": vqp_simvq,
    "src.IBQ.modules.vqvae.quantize.IndexPropagationQuantize": ibq,
    "tokenizer.vq_model.VectorQuantizer": tokenflow,
    "tokenizer.vq_model_dual.VectorQuantizer x2 + VQModel.compute_disentangle_loss": fqgan,
    "models.tokenbridge.TokenBridge.quantize (same maths as reconstruction.post_training_quantize)": tokenbridge,
}
