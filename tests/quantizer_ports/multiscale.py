"""Multi-scale residual quantizers: VAR, SNAC."""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizers import VQ, MultiRate, MultiScaleVQ, Projected

from .common import Check, Signal, allow_only, assert_close, load

SHARING = {0: "quant_resi.{index}", 1: "quant_resi.qresi"}  # else quant_resi.qresi_ls.{index}


def var_msrq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    sides, share = config["v_patch_nums"], config["share_quant_resi"]
    phis = (config["default_qresi_counts"] or len(sides)) if share == 0 else share
    if abs(config["quant_resi"]) <= 1e-6:
        phis = 0
    quantizer = MultiScaleVQ(
        VQ(config["Cvae"], config["vocab_size"], metric="cosine" if config["using_znorm"] else "l2"),
        sides,
        phis=phis,
        phi_ratio=abs(config["quant_resi"]),
        commitment=config["beta"],
    )
    prefix = SHARING.get(share, "quant_resi.qresi_ls.{index}")
    theirs = {f"phi.{index}.conv": prefix.format(index=index) for index in range(phis)}
    names = {f"{ours}.{kind}": f"{name}.{kind}" for ours, name in theirs.items() for kind in ("weight", "bias")}
    names["quantizer.codebook"] = "embedding.weight"
    load(quantizer, {ours: state[name] for ours, name in names.items()})

    signal, scales = Signal(io["f"], channel_first=True), quantizer.scales
    codes = [io[f"indices_scale{scale}"][..., None] for scale in range(len(scales))]
    every = torch.cat(codes, dim=1)
    quantizer.eval()
    out = quantizer(signal.flat(io["f"]))
    assert torch.equal(out.indices, every)
    assert torch.equal(quantizer.lookup(every), out.latents)
    assert_close("f_hat", signal.like(quantizer.lookup(every)), io["f_hat_from_indices"])
    assert_close("teacher forcing", quantizer.teacher_forcing(every), io["teacher_forcing_input"])
    assert_close("experimental f_hat", growing(quantizer, codes), io["f_hat_from_indices_not_to_max_scale"])
    running = None
    for scale, (total, end) in enumerate(zip(quantizer.partial_sums(every), accumulate(scales), strict=True)):
        assert_close(f"f_hat of scale {scale}", signal.like(total), io[f"f_hat_scale{scale}"])
        assert torch.equal(quantizer.lookup(every[:, :end]), total)
        running, following = quantizer.next_input(running, codes[scale], scale)
        assert_close("running f_hat", running, total)
        expected = io[f"next_input_after_scale{scale}"]
        assert_close(f"input after scale {scale}", following, expected.flatten(2).mT)
    if "f_alt" in io:
        other = quantizer.with_scales(io["patch_nums_alt"].tolist())
        alt = Signal(io["f_alt"], channel_first=True)
        found = other(alt.flat(io["f_alt"]))
        indices = [io[f"alt_indices_scale{scale}"] for scale in range(len(other.scales))]
        assert torch.equal(found.indices[..., 0], torch.cat(indices, dim=1))
        assert_close("alternative f_hat", alt.like(found.latents), io["alt_f_hat_last"])

    quantizer.train()
    latents = io["f"].clone().requires_grad_()
    out = quantizer(signal.flat(latents))
    assert_close("output", signal.like(out.latents), io["forward_f_hat"])
    assert_close("loss", out.loss[None], io["vq_loss"])
    (out.loss + (signal.like(out.latents) * io["cotangent"]).sum()).backward()
    assert latents.grad is not None
    assert_close("gradient", latents.grad, io["grad_f"])
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None
        their = "embedding" if name == "quantizer.codebook" else names[name]
        assert_close(f"gradient of {name}", parameter.grad, io[f"grad_{their}"])
    check_hits(codes, config["vocab_size"], io["f"], state["ema_vocab_hit_SV"], io)


def growing(quantizer: MultiScaleVQ, codes: list[Tensor]) -> Tensor:
    """The reference's experimental sum, which grows from scale to scale itself; not its training path."""
    total = torch.zeros(len(codes[0]), quantizer.dim, *quantizer.grids[0])
    for scale, grid in enumerate(quantizer.grids):
        alone = quantizer.with_scales([*quantizer.grids[: scale + 1], *[grid] * (len(codes) - 1 - scale)])
        step, _ = alone.next_input(None, codes[scale], scale)
        total = F.interpolate(total, grid, mode="bicubic") + step.mT.unflatten(2, grid)
    return total


def check_hits(codes: list[Tensor], size: int, f: Tensor, before: Tensor, io: dict[str, Tensor]) -> None:
    """The reference's usage statistics, logging there: the first count is copied, later ones averaged in.

    It counts only in a process group that its own helpers have started; otherwise the counts stay as they were.
    """
    after = io["ema_vocab_hit_after_1_train_step"]
    hits = torch.stack([scale.flatten().bincount(minlength=size).float() for scale in codes])
    counted = torch.cat((hits[:1], before[1:] * 0.9 + hits[1:] * 0.1))
    expected = before if torch.equal(after, before) else counted
    assert_close("hits", expected, after)
    margin = f.numel() / f.shape[1] / size * 0.08
    usages = (expected >= margin).double().mean(1) * 100
    assert_close("usages", usages, io["usages_after_1_train_step_percent"])


def snac_rvq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(config, input_dim=None, codebook_size=None, codebook_dim=None, vq_strides=None)
    levels = [
        Projected(
            VQ(config["codebook_dim"], config["codebook_size"], metric="cosine"), config["input_dim"], weight_norm=True
        )
        for _ in config["vq_strides"]
    ]
    quantizer = MultiRate(levels, config["vq_strides"], gradient="chained")
    load(quantizer, {rename_snac(name): linear(tensor) for name, tensor in state.items()})
    codes = torch.cat([io[f"codes.{level}"] for level in range(len(levels))], dim=1)[..., None]

    quantizer.eval()
    evaluated = quantizer(io["latents"].mT)
    assert torch.equal(evaluated.indices, codes)
    assert torch.equal(quantizer.lookup(codes), evaluated.latents)
    assert_close("eval output", evaluated.latents.mT, io["quantized"])
    tokens = tuple(io[f"codes.{level}"].shape[1] for level in range(len(levels)))
    assert quantizer.tokens_per_level(io["latents"].shape[2]) == tokens

    quantizer.train()
    latents = io["latents"].clone().requires_grad_()
    out = quantizer(latents.mT)
    assert torch.equal(out.indices, codes)
    assert_close("output", out.latents.mT, io["quantized"])
    (out.latents.mT * io["probe"]).sum().backward()
    assert latents.grad is not None
    assert_close("gradient", latents.grad, io["grad_of_probe_sum"])
    parameters = dict(quantizer.named_parameters())
    compared = {name.removeprefix("param_grad.") for name in io if name.startswith("param_grad.")}
    assert len(compared) == 6 * len(levels)
    for name in compared:
        gradient = parameters[rename_snac(name)].grad
        assert gradient is not None
        assert_close(f"gradient of {name}", gradient, linear(io[f"param_grad.{name}"]))
    for level in levels:
        assert level.quantizer.codebook.grad is None


def linear(tensor: Tensor) -> Tensor:
    """A parameter of a convolution of width one as that of a linear map."""
    return tensor.squeeze(-1) if tensor.ndim == 3 else tensor


def rename_snac(name: str) -> str:
    for theirs, ours in (
        ("quantizers.", "levels."),
        ("codebook.weight", "quantizer.codebook"),
        ("in_proj", "project_in"),
        ("out_proj", "project_out"),
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        name = name.replace(theirs, ours)
    return name


PORTS: dict[str, Check] = {
    "models.quant.VectorQuantizer2": var_msrq,
    "snac.vq.ResidualVectorQuantize": snac_rvq,
}
