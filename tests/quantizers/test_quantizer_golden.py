"""Quantizers against the numbers of their references: every case of the golden folder `quantizer`.

A case is known by its reference class alone, so that a folder with other cases of these classes (other sizes, other
options) runs unchanged. A case of a class without a port is skipped by name.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quantizers import FSQ, LFQ, VQ, Quantized, Quantizer
from quantizers.codebook import kmeans

FAMILY = "quantizer"
ROOT = Path(os.environ.get("ZOO_GOLDEN") or Path(__file__).parents[1] / "golden")
CASES = sorted(path.parent for path in (ROOT / FAMILY).glob("*/config.json"))
pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{FAMILY}/{path.name}")
def test_quantizer_golden(case: Path) -> None:
    meta = json.loads((case / "config.json").read_text())
    check = PORTS.get(meta["reference"]["class"])
    if check is None:
        pytest.skip(f"{FAMILY}/{case.name}: {meta['reference']['class']} has no port yet")
    check(meta["config"], load_file(case / "state.safetensors"), load_file(case / "io.safetensors"))


def assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference within `tolerance` of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = actual.detach(), expected.detach()
    bound = tolerance * expected.abs().max().item() + 1e-12
    error = (actual - expected).abs().max().item()
    assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


def allow_only(config: dict[str, Any], **known: set[Any] | None) -> None:
    """Skip a case that uses an option, or a value of one, which this port does not have (None: any value)."""
    for name, value in config.items():
        if name not in known or not (known[name] is None or value in (known[name] or ())):
            pytest.skip(f"option {name}={value!r} of the reference has no port yet")


class Signal:
    """The (B, N, D) view of a reference tensor (B, D, *grid), and the way back."""

    def __init__(self, latents: Tensor, channel_first: bool) -> None:
        self.grid = latents.shape[2:] if channel_first else None

    def flat(self, x: Tensor) -> Tensor:
        return x if self.grid is None else x.flatten(2).mT

    def like(self, x: Tensor) -> Tensor:
        return x if self.grid is None else x.mT.unflatten(-1, self.grid)


class Projected(nn.Module):
    """Linear maps around a quantizer where the reference has its own."""

    def __init__(self, quantizer: Quantizer, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.project_in: nn.Module = self.projection("project_in", state)
        self.project_out: nn.Module = self.projection("project_out", state)

    @staticmethod
    def projection(name: str, state: dict[str, Tensor]) -> nn.Module:
        weight = state.get(f"{name}.weight")
        if weight is None:
            return nn.Identity()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
        return layer

    def forward(self, z: Tensor) -> tuple[Tensor, Quantized]:
        out = self.quantizer(self.project_in(z))
        return self.project_out(out.latents), out

    def lookup(self, indices: Tensor) -> Tensor:
        return self.project_out(self.quantizer.lookup(indices))


def load(quantizer: Quantizer, state: dict[str, Tensor]) -> None:
    quantizer.load_state_dict(state, strict=True)


# --- vector-quantize-pytorch: eval and train, output and loss gradients apart -----------------------------------------


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
        threshold_ema_dead_code={0},
    )
    weight, learnable = config.get("commitment_weight", 1.0), config.get("learnable_codebook", False)
    quantizer = VQ(
        config.get("codebook_dim", config["dim"]),
        config["codebook_size"],
        normalize=config.get("use_cosine_sim", False),
        learn="gradient" if learnable else "ema",
        commitment=weight,
        codebook_loss=weight,
        estimator="rotation" if config.get("rotation_trick", True) else "straight_through",
        decay=config.get("decay", 0.8),
    )
    names = {"codebook": "embed"} if learnable else VQP_BUFFERS
    load(quantizer, {ours: state[f"_codebook.{theirs}"][0] for ours, theirs in names.items()})
    run_vqp(quantizer, state, io, config.get("accept_image_fmap", False), parts={"commitment": "commitment"})
    after = {f"train.state_after._codebook.{theirs}": ours for ours, theirs in VQP_BUFFERS.items()}
    for theirs, ours in after.items():
        if theirs in io:
            assert_close(theirs, quantizer.state_dict()[ours], io[theirs][0])
    if learnable:
        assert quantizer.codebook.grad is not None
        assert_close("codebook gradient", quantizer.codebook.grad, io["train.grad._codebook.embed"][0])


VQP_BUFFERS = {"codebook": "embed", "cluster_size": "cluster_size", "cluster_sum": "embed_avg"}


def vqp_fsq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, levels=None, dim=None, preserve_symmetry=None)
    quantizer = FSQ(config["levels"], symmetric=config.get("preserve_symmetry", False))
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
    quantizer = LFQ(
        config["codebook_size"].bit_length() - 1,
        num_codebooks=config.get("num_codebooks", 1),
        spherical=config.get("spherical", False),
        commitment=config.get("commitment_loss_weight", 0.0),
        entropy=config.get("entropy_loss_weight", 0.1),
        diversity=config.get("diversity_gamma", 1.0),
        first_bit="most",
        entropy_floor="clamp",
    )
    parts = {name: name for name in ("per_sample_entropy", "batch_entropy", "commitment")}
    run_vqp(quantizer, state, io, channel_first=False, parts=parts)


def run_vqp(
    quantizer: Quantizer,
    state: dict[str, Tensor],
    io: dict[str, Tensor],
    channel_first: bool,
    parts: dict[str, str],
) -> None:
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
    value = out.loss / 2 if "codebook" in out.parts else out.loss
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


# --- references with one training step: quantized.sum() + losses ------------------------------------------------------


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


def open_magvit2_lfq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    sample, batch = config["sample_minimization_weight"], config["batch_maximization_weight"]
    quantizer = LFQ(config["dim"], commitment=1.0, entropy=sample, diversity=batch / sample)
    assert config["codebook_size"] == quantizer.codebook_sizes[0]
    out = run_step(quantizer, {}, io)
    parts = out.parts
    assert_close("commitment", parts["commitment"], io["commitment"])
    assert_close("per-sample entropy", parts["per_sample_entropy"], io["per_sample_entropy"])
    assert_close("batch entropy", parts["batch_entropy"], io["codebook_entropy"])
    total = sample * parts["per_sample_entropy"] - batch * parts["batch_entropy"]
    assert_close("entropy loss", total, io["entropy_aux_loss"])
    every = torch.arange(quantizer.codebook_sizes[0])[None, :, None]
    assert torch.equal(quantizer.lookup(every)[0], io["codebook"])


def run_step(
    quantizer: VQ | LFQ, state: dict[str, Tensor], io: dict[str, Tensor], channel_first: bool = True
) -> Quantized:
    """One training forward and backward of quantized.sum() + loss, all shared tensors compared."""
    load(quantizer, {"codebook": state["embedding.weight"]} if state else {})
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
    if isinstance(quantizer, VQ):
        assert quantizer.codebook.grad is not None
        assert_close("codebook gradient", quantizer.codebook.grad, io["grad_codebook"])
    quantizer.eval()
    with torch.no_grad():
        evaluated = quantizer(signal.flat(io["latents"]))
    assert torch.equal(evaluated.indices, out.indices)
    assert torch.equal(quantizer.lookup(out.indices), evaluated.latents)
    return out


# --- EnCodec and its kin with a single level: EMA over two steps, k-means ---------------------------------------------


def encodec_single(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    if config["n_q"] != 1:
        pytest.skip("residual quantizers have no port yet")
    quantizer = VQ(
        config["dimension"],
        config["bins"],
        learn="ema",
        commitment=config["commitment_weight"],
        decay=config["decay"],
    )
    names = {"codebook": "embed", "cluster_size": "cluster_size", "cluster_sum": "embed_avg"}
    load(quantizer, {ours: state[f"vq.layers.0._codebook.{theirs}"] for ours, theirs in names.items()})
    quantizer.train()
    for step, prefix in ((1, ""), (2, "step2.")):
        latents = io[f"{prefix}latents"].clone().requires_grad_()
        out = quantizer(latents.mT)
        assert torch.equal(out.indices[..., 0], io[f"{prefix}codes"][0])
        assert_close("output", out.latents.mT, io[f"{prefix}quantized"])
        for ours, theirs in names.items():
            assert_close(theirs, quantizer.state_dict()[ours], io[f"after_step{step}.layers.0.{theirs}"])
        if step == 1:
            assert_close("penalty", out.loss, io["penalty"])
            (by_loss,) = torch.autograd.grad(out.loss, latents, retain_graph=True)
            assert_close("gradient of the penalty", by_loss, io["grad_of_penalty"])
            (by_probe,) = torch.autograd.grad((out.latents.mT * io["probe"]).sum(), latents)
            assert_close("gradient of the output", by_probe, io["grad_of_probe_sum"])
    quantizer.eval()
    out = quantizer(io["latents"].mT)
    assert torch.equal(out.indices[..., 0], io["eval_after_step2.codes"][0])
    assert_close("eval output", out.latents.mT, io["eval_after_step2.quantized"])
    means, counts = kmeans(io["kmeans.samples"], io["kmeans.initial_means"], config["kmeans_iters"])
    assert_close("k-means", means, io["kmeans.means"])
    assert torch.equal(counts.long(), io["kmeans.bins"])


# --- the spherical moving average of BEiT v2 --------------------------------------------------------------------------


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


Check = Callable[[dict[str, Any], dict[str, Tensor], dict[str, Tensor]], None]
PORTS: dict[str, Check] = {
    "vector_quantize_pytorch.vector_quantize_pytorch.VectorQuantize": vqp_vq,
    "vector_quantize_pytorch.finite_scalar_quantization.FSQ": vqp_fsq,
    "vector_quantize_pytorch.lookup_free_quantization.LFQ": vqp_lfq,
    "src.IBQ.modules.vqvae.quantize.VectorQuantizer2": taming_vq2,
    "tokenizer.tokenizer_image.vq_model.VectorQuantizer": llamagen_vq,
    "transcoder.models.quantizer.vq.VectorQuantizer": bsqvit_vq,
    "src.Open_MAGVIT2.modules.vqvae.lookup_free_quantize.LFQ": open_magvit2_lfq,
    "encodec.quantization.vq.ResidualVectorQuantizer": encodec_single,
    "encoder.quantization.vq.ResidualVectorQuantizer": encodec_single,
    "tokenizer.norm_ema_quantizer.NormEMAVectorQuantizer": norm_ema_vq,
}
