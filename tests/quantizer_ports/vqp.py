"""vector-quantize-pytorch: eval and train, output and loss gradients apart."""

from typing import Any

import torch
from torch import Tensor

from quantizers import BSQ, FSQ, LFQ, VQ, Product, Quantizer, Residual, ResidualFSQ

from .common import Check, Projected, Signal, allow_only, assert_close, load
from .residual import record


def vqp_vq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dim=None,
        codebook_dim=None,
        codebook_size=None,
        decay=None,
        commitment_weight=None,
        use_cosine_sim=None,
        rotation_trick=None,
        learnable_codebook=None,
        ema_update=None,
        accept_image_fmap=None,
        heads=None,
        separate_codebook_per_head=None,
        threshold_ema_dead_code={0},
    )
    weight, learnable = config.get("commitment_weight", 1.0), config.get("learnable_codebook", False)
    quantizer: Quantizer = VQ(
        config.get("codebook_dim", config["dim"]),
        config["codebook_size"],
        normalize=config.get("use_cosine_sim", False),
        learn="gradient" if learnable else "ema",
        commitment=weight,
        codebook_loss=weight,
        estimator="rotation" if config.get("rotation_trick", True) else "straight_through",
        decay=config.get("decay", 0.8),
    )
    if config.get("heads", 1) > 1:
        quantizer = Product(quantizer, config["heads"], shared=not config.get("separate_codebook_per_head", False))
    codebooks = {name: module for name, module in quantizer.named_modules(prefix="q") if isinstance(module, VQ)}
    names = {"codebook": "embed"} if learnable else VQP_BUFFERS
    weights = {
        f"{prefix}.{ours}".removeprefix("q."): state[f"_codebook.{theirs}"][head]
        for head, prefix in enumerate(codebooks)
        for ours, theirs in names.items()
    }
    load(quantizer, weights)
    run_vqp(quantizer, state, io, config.get("accept_image_fmap", False), parts={"commitment": "commitment"})
    after = {f"train.state_after._codebook.{theirs}": ours for ours, theirs in VQP_BUFFERS.items()}
    for head, codebook in enumerate(codebooks.values()):
        for theirs, ours in after.items():
            if theirs in io:
                assert_close(theirs, codebook.state_dict()[ours], io[theirs][head])
        if learnable:
            assert codebook.codebook.grad is not None
            assert_close("codebook gradient", codebook.codebook.grad, io["train.grad._codebook.embed"][head])


def vqp_residual_vq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dim=None,
        codebook_dim=None,
        num_quantizers=None,
        codebook_size=None,
        decay=None,
        commitment_weight=None,
        use_cosine_sim=None,
        rotation_trick=None,
        learnable_codebook=None,
        ema_update=None,
        accept_image_fmap=None,
        shared_codebook={False},
        quantize_dropout={False},
        threshold_ema_dead_code={0},
    )
    count, weight = config["num_quantizers"], config.get("commitment_weight", 1.0)
    learnable = config.get("learnable_codebook", False)
    sizes = config["codebook_size"]
    levels = [
        VQ(
            config.get("codebook_dim") or config["dim"],
            size,
            normalize=config.get("use_cosine_sim", False),
            learn="gradient" if learnable else "ema",
            commitment=weight,
            codebook_loss=weight,
            estimator="rotation" if config.get("rotation_trick", True) else "straight_through",
            decay=config.get("decay", 0.8),
        )
        for size in ([sizes] * count if isinstance(sizes, int) else sizes)
    ]
    quantizer = Residual(levels, gradient="per_level", reduce="sum")
    names = {"codebook": "embed"} if learnable else VQP_BUFFERS
    stored = {
        f"levels.{level}.{ours}": f"layers.{level}._codebook.{theirs}"
        for level in range(count)
        for ours, theirs in names.items()
    }
    load(quantizer, {ours: state[theirs][0] for ours, theirs in stored.items()})
    with record(quantizer.levels) as found:
        run_vqp(quantizer, state, io, config.get("accept_image_fmap", False), parts={})
    # The training forward is the last one; in eval the reference has no losses.
    losses = [level.loss / 2 if learnable else level.loss for level in found[-count:]]
    assert_close("losses", torch.stack(losses), io["train.loss.per_layer"])
    for ours, theirs in stored.items():
        if f"train.state_after.{theirs}" in io:
            assert_close(theirs, quantizer.state_dict()[ours], io[f"train.state_after.{theirs}"][0])
        if f"train.grad.{theirs}" in io:
            by_loss = quantizer.get_parameter(ours).grad
            assert by_loss is not None
            assert_close(f"gradient of {theirs}", by_loss, io[f"train.grad.{theirs}"][0])


VQP_BUFFERS = {"codebook": "embed", "cluster_size": "cluster_size", "cluster_sum": "embed_avg"}


def vqp_fsq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, levels=None, dim=None, preserve_symmetry=None)
    quantizer = FSQ(config["levels"], symmetric=config.get("preserve_symmetry", False))
    run_vqp(quantizer, state, io, channel_first=False, parts={})


def vqp_residual_fsq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, levels=None, num_quantizers=None, dim=None, quantize_dropout={False})
    quantizer = ResidualFSQ(config["levels"], config["num_quantizers"], gradient="per_level")
    run_vqp(quantizer, state, io, channel_first=False, parts={})


def vqp_lfq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dim=None,
        codebook_size=None,
        num_codebooks=None,
        spherical=None,
        entropy_loss_weight=None,
        commitment_loss_weight=None,
        diversity_gamma=None,
    )
    bits, weight = config["codebook_size"].bit_length() - 1, config.get("commitment_loss_weight", 0.0)
    shared: dict[str, Any] = {
        "num_codebooks": config.get("num_codebooks", 1),
        "entropy": config.get("entropy_loss_weight", 0.1),
        "diversity": config.get("diversity_gamma", 1.0),
        "first_bit": "most",
        "entropy_bits": bits,
        "entropy_floor": "clamp",
        "reference_bugs": True,
    }
    parts = {name: name for name in ("per_sample_entropy", "batch_entropy")}
    quantizer: BSQ | LFQ
    if config.get("spherical", False):  # the reference takes the mean over channels, BSQ sums
        quantizer = BSQ(bits, commitment=weight / bits, temperature=0.01, **shared)
        run_vqp(quantizer, state, io, channel_first=False, parts=parts)
        error = quantizer(Projected(quantizer, state).project_in(io["latents"])).parts["commitment"] / bits
        assert_close("commitment", error, io["train.loss.commitment"])
    else:
        quantizer = LFQ(bits, commitment=weight, **shared)
        run_vqp(quantizer, state, io, channel_first=False, parts={**parts, "commitment": "commitment"})


def run_vqp(
    quantizer: Quantizer,
    state: dict[str, Tensor],
    io: dict[str, Tensor],
    channel_first: bool,
    parts: dict[str, str],
    undetached: bool = True,
) -> None:
    """Eval and train of a whole case; `undetached`: the reference has one squared error in place of our two terms."""
    module, signal = Projected(quantizer, state), Signal(io["latents"], channel_first)
    module.eval()
    output, out = module(signal.flat(io["latents"]))
    shape = io["eval.indices"].shape
    assert torch.equal(out.indices.view(shape), io["eval.indices"])
    assert_close("eval output", signal.like(output), io["eval.quantised"])
    assert torch.equal(module.lookup(out.indices), output)
    assert_close("decoded", signal.like(module.lookup(out.indices)), io["eval.decoded_from_indices"])

    module.train()
    latents = io["latents"].clone().requires_grad_()
    output, out = module(signal.flat(latents))
    assert torch.equal(out.indices.view(shape), io["train.indices"])
    assert_close("train output", signal.like(output), io["train.quantised"])
    for ours, theirs in parts.items():
        assert_close(ours, out.parts[ours], io[f"train.loss.{theirs}"])
    # One undetached error of weight w is our two terms of weight w each: same gradients, twice the value.
    value = out.loss / 2 if undetached and "codebook" in out.parts else out.loss
    if "train.loss.total" in io:
        assert_close("loss", value, io["train.loss.total"])

    output_part = (signal.like(output) * io["train.grad_output"]).sum()
    parameters = dict(module.named_parameters())
    (by_output,) = torch.autograd.grad(output_part, latents, retain_graph=True)
    assert_close("gradient of the output", by_output, io["train.grad_latents.output_only"])
    if out.loss.requires_grad:
        (by_loss,) = torch.autograd.grad(out.loss, latents, retain_graph=True)
        assert_close("gradient of the loss", by_loss, io["train.grad_latents.loss_only"])
    (output_part + out.loss).backward()
    assert latents.grad is not None
    assert_close("gradient", latents.grad, io["train.grad_latents"])
    for name, parameter in parameters.items():
        if f"train.grad.{name}" in io:
            assert parameter.grad is not None
            assert_close(f"gradient of {name}", parameter.grad, io[f"train.grad.{name}"])


PORTS: dict[str, Check] = {
    "vector_quantize_pytorch.vector_quantize_pytorch.VectorQuantize": vqp_vq,
    "vector_quantize_pytorch.residual_vq.ResidualVQ": vqp_residual_vq,
    "vector_quantize_pytorch.finite_scalar_quantization.FSQ": vqp_fsq,
    "vector_quantize_pytorch.residual_fsq.ResidualFSQ": vqp_residual_fsq,
    "vector_quantize_pytorch.lookup_free_quantization.LFQ": vqp_lfq,
}
