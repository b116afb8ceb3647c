"""Residual quantizers of the audio codecs and of EvoTok."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantizers import VQ, Projected, Quantized, Quantizer, Residual, SplitResidual
from quantizers.codebook import ema_codes, kmeans

from .common import Check, Signal, allow_only, assert_close, load

ENCODEC_BUFFERS = {"codebook": "embed", "cluster_size": "cluster_size", "cluster_sum": "embed_avg"}
DAC_MAPS = {"project_in": "in_proj", "project_out": "out_proj"}


@contextmanager
def record(modules: nn.ModuleList) -> Iterator[list[Any]]:
    """What the modules return, call after call."""
    seen: list[Any] = []
    handles = [module.register_forward_hook(lambda *call: seen.append(call[-1])) for module in modules]
    yield seen
    for handle in handles:
        handle.remove()


def gradient(of: Tensor, latents: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, latents, retain_graph=True, allow_unused=True)
    return torch.zeros_like(latents) if found is None else found


def encodec(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dimension=None,
        n_q=None,
        bins=None,
        decay=None,
        commitment_weight=None,
        kmeans_iters=None,
        epsilon={1e-5},
        threshold_ema_dead_code=None,
        batch=None,
        frames=None,
    )
    levels = range(config["n_q"])
    weight = config["commitment_weight"]
    book = VQ(
        config["dimension"],
        config["bins"],
        learn="ema",
        commitment=weight,
        decay=config["decay"],
        dead_code_threshold=0.5 if config["threshold_ema_dead_code"] > 0 else 0.0,
        reference_bugs=True,
    )
    quantizer = Residual(book, config["n_q"], gradient="chained")
    values = {
        f"levels.{level}.{ours}": state[f"vq.layers.{level}._codebook.{theirs}"]
        for level in levels
        for ours, theirs in ENCODEC_BUFFERS.items()
    }
    load(quantizer, {**quantizer.state_dict(), **values})
    quantizer.train()
    for step, prefix in ((1, ""), (2, "step2.")):
        latents = io[f"{prefix}latents"].clone().requires_grad_()
        with record(quantizer.levels) as found:
            out = quantizer(latents.mT)
        assert torch.equal(out.indices.movedim(-1, 0), io[f"{prefix}codes"])
        assert_close("output", out.latents.mT, io[f"{prefix}quantized"])
        for name in values:
            _, level, ours = name.split(".")
            theirs = f"after_step{step}.layers.{level}.{ENCODEC_BUFFERS[ours]}"
            assert_close(theirs, quantizer.state_dict()[name], io[theirs])
        if step == 1:
            losses = torch.stack([weight * level.parts["commitment"] for level in found])
            assert_close("commitment losses", losses[:, None], io["commit_losses"])
            by_level = torch.stack([gradient(loss, latents) for loss in losses])
            assert_close("gradient of each commitment", by_level, io["grad_of_each_commit_loss"])
            assert_close("penalty", out.loss, io["penalty"])
            assert_close("gradient of the penalty", gradient(out.loss, latents), io["grad_of_penalty"])
            by_probe = gradient((out.latents.mT * io["probe"]).sum(), latents)
            assert_close("gradient of the output", by_probe, io["grad_of_probe_sum"])
    quantizer.eval()
    out = quantizer(io["latents"].mT)
    assert torch.equal(out.indices.movedim(-1, 0), io["eval_after_step2.codes"])
    assert_close("eval output", out.latents.mT, io["eval_after_step2.quantized"])
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    means, counts = kmeans(io["kmeans.samples"], io["kmeans.initial_means"], config["kmeans_iters"])
    assert_close("k-means", means, io["kmeans.means"])
    assert torch.equal(counts.long(), io["kmeans.bins"])


def wavtokenizer(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    if config["n_q"] != 1:
        pytest.skip("WavTokenizer's levels all read the same latents; published models have one")
    encodec(config, state, io)


def dac_rvq(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        input_dim=None,
        n_codebooks=None,
        codebook_size=None,
        codebook_dim=None,
        quantizer_dropout=None,
        torch_seed_before_forward=None,
    )
    count, dim = config["n_codebooks"], config["input_dim"]
    widths = config["codebook_dim"]
    widths = [widths] * count if isinstance(widths, int) else widths
    books = [VQ(width, config["codebook_size"], metric="cosine") for width in widths]
    quantizer = Residual(
        [Projected(book, dim, weight_norm=True) for book in books],
        gradient="chained",
        reduce="sum",
        quantize_dropout=config["quantizer_dropout"],
        reference_bugs=True,
    )
    names = {f"levels.{level}.quantizer.codebook": f"quantizers.{level}.codebook.weight" for level in range(count)}
    for level in range(count):
        for ours, theirs in DAC_MAPS.items():
            for part in ("bias", "weight_g", "weight_v"):
                names[f"levels.{level}.{ours}.{part}"] = f"quantizers.{level}.{theirs}.{part}"
    load(quantizer, {ours: like_linear(state[theirs]) for ours, theirs in names.items()})

    quantizer.train()
    latents = io["latents"].clone().requires_grad_()
    torch.manual_seed(config["torch_seed_before_forward"])
    with record(nn.ModuleList(level.project_in for level in quantizer.levels)) as projected:
        out = quantizer(latents.mT)
    assert torch.equal(out.indices.mT, io["codes"])
    assert_close("output", out.latents.mT, io["quantized"])
    assert_close("projected latents", torch.cat(projected, dim=-1).mT, io["projected_latents"])
    assert torch.equal(depths(quantizer, out), io["n_quantizers"].clamp_max(count).long())
    terms = {
        "commitment": out.parts["commitment"],
        "codebook": out.parts["codebook"],
        "probe_sum": (out.latents.mT * io["probe"]).sum(),
    }
    assert_close("loss", out.loss, 0.25 * io["commitment_loss"] + io["codebook_loss"])
    terms["total"] = out.loss + 0.01 * terms["probe_sum"]
    assert_close("commitment", terms["commitment"], io["commitment_loss"])
    assert_close("codebook loss", terms["codebook"], io["codebook_loss"])
    assert_close("total", terms["total"], io["total_loss"])
    for name, term in terms.items():
        assert_close(f"gradient of {name}", gradient(term, latents), io[f"grad_of_{name}"])
    terms["total"].backward()
    for ours, theirs in names.items():
        found = quantizer.get_parameter(ours).grad
        assert found is not None
        assert_close(theirs, found, like_linear(io[f"param_grad.{theirs}"]))

    quantizer.eval()
    with torch.no_grad():
        out = quantizer(io["latents"].mT)
        codes = [
            level.quantizer(part).indices
            for level, part in zip(quantizer.levels, io["projected_latents"].mT.split(widths, dim=-1), strict=True)
        ]
    assert torch.equal(out.indices.mT, io["eval.codes"])
    assert_close("eval output", out.latents.mT, io["eval.quantized"])
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    for name in ("commitment", "codebook"):
        assert_close(f"eval {name} loss", out.parts[name], io[f"eval.{name}_loss"])
    from_latents = torch.cat(codes, dim=-1)
    assert torch.equal(from_latents.mT, io["eval.from_latents_codes"])
    assert_close("from latents", quantizer.lookup(from_latents).mT, io["eval.from_latents"])


def depths(quantizer: Residual, out: Quantized) -> Tensor:
    """Levels (B,) that add up to the latents of each item."""
    prefixes = [quantizer.lookup(out.indices[..., :count]) for count in range(1, quantizer.num_quantizers + 1)]
    errors = torch.stack([(prefix - out.latents).abs().amax((1, 2)) for prefix in prefixes])
    return errors.argmin(0) + 1


def like_linear(x: Tensor) -> Tensor:
    """Weights of a convolution of width 1 as those of a linear layer."""
    return x.squeeze(2) if x.ndim == 3 else x


def mimi(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        dimension=None,
        n_q=None,
        n_q_semantic=None,
        bins=None,
        input_dimension=None,
        output_dimension={config["input_dimension"]},
        decay=None,
        threshold_usage_ratio=None,
        replaced_usage_ratio={1.0},
        check_unused_every=None,
    )
    counts = {"rvq_first": config["n_q_semantic"], "rvq_rest": config["n_q"] - config["n_q_semantic"]}

    def half(count: int) -> Quantizer:
        book = VQ(
            config["dimension"],
            config["bins"],
            learn="ema",
            commitment=1.0,
            decay=config["decay"],
            dead_code_threshold=config["threshold_usage_ratio"],
            dead_code_interval=config["check_unused_every"],
        )
        return Projected(Residual(book, count), config["input_dimension"], bias=False)

    quantizer = SplitResidual([half(count) for count in counts.values()])
    values = quantizer.state_dict()
    books = {}
    for number, (name, count) in enumerate(counts.items()):
        for ours, theirs in (("project_in", "input_proj"), ("project_out", "output_proj")):
            values[f"stacks.{number}.{ours}.weight"] = like_linear(state[f"{name}.{theirs}.weight"])
        for level in range(count):
            book = f"stacks.{number}.quantizer.levels.{level}"
            theirs = f"{name}.vq.layers.{level}._codebook"
            usage, total = state[f"{theirs}.cluster_usage"], state[f"{theirs}.embedding_sum"]
            values[f"{book}.cluster_size"], values[f"{book}.cluster_sum"] = usage, total
            values[f"{book}.codebook"] = total / usage.clamp_min(1e-5)[:, None]
            books[f"{name}.{level}"] = book
    load(quantizer, values)
    quantizer.train()
    steps = sorted(int(name.split(".")[0].removeprefix("step")) for name in io if name.startswith("step"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantizers.upkeep.sample_rows", rows_in_turn)
        for step in (1, *steps):
            latents = io["latents" if step == 1 else f"step{step}.latents"].clone().requires_grad_()
            out = quantizer(latents.mT)
            if step == 1:
                assert torch.equal(out.indices.mT, io["codes"])
                assert_close("output", out.latents.mT, io["quantized"])
                assert_close("penalty", out.loss, io["penalty"])
                assert_close("gradient of the penalty", gradient(out.loss, latents), io["grad_of_penalty"])
                by_probe = gradient((out.latents.mT * io["probe"]).sum(), latents)
                assert_close("gradient of the output", by_probe, io["grad_of_probe_sum"])
            for theirs, ours in books.items():
                for part, name in (("cluster_size", "cluster_usage"), ("cluster_sum", "embedding_sum")):
                    expected = io.get(f"after_step{step}.{theirs}.{name}")
                    if expected is not None:
                        assert_close(f"{theirs}.{name} after {step}", quantizer.get_buffer(f"{ours}.{part}"), expected)


def rows_in_turn(x: Tensor, size: int, fallback: Tensor) -> Tensor:
    return x[torch.arange(size) % len(x)]


def evotok(config: dict[str, Any], state: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    allow_only(
        config,
        n_embed=None,
        embed_dim=None,
        code_depth=None,
        decay=None,
        restart_unused_codes={False},
        commitment_loss={"cumsum"},
        show_usage=None,
        vq_warmup=None,
    )
    count, taps = max(config["code_depth"]), sorted(set(config["code_depth"]))
    book = VQ(
        config["embed_dim"], config["n_embed"], learn="ema", commitment=1.0, decay=config["decay"], count_floor=1.0
    )
    quantizer = Residual(book, count, taps=taps)
    names = {"codebook": "weight", "cluster_size": "cluster_size_ema", "cluster_sum": "embed_ema"}
    values = {
        f"levels.{level}.{ours}": state[f"codebooks.{level}.{theirs}"][: config["n_embed"]]
        for level in range(count)
        for ours, theirs in names.items()
    }
    load(quantizer, values)
    signal = Signal(io["latents"], channel_first=True)

    quantizer.eval()
    out = quantizer(signal.flat(io["latents"]))
    compare_taps(config, signal, out, io)
    assert torch.equal(out.indices.view_as(io["codes"]), io["codes"])
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    entries = [level.lookup(out.indices[..., [depth]]) for depth, level in enumerate(quantizer.levels)]
    assert torch.equal(torch.stack(entries, dim=2).view_as(io["codebook_lookup"]), io["codebook_lookup"])
    assert_close("commitment", out.loss, io["commit_loss"])

    latents = io["latents"].clone().requires_grad_()
    out = copy.deepcopy(quantizer).train()(signal.flat(latents))
    pixel, semantic = compare_taps(config, signal, out, io)
    objective = pixel.sum() + semantic.sum() + out.loss
    assert_close("objective", objective, io["objective"])
    assert_close("gradient", gradient(objective, latents), io["grad_latents"])

    quantizer.train()
    warmup = config.get("vq_warmup", 0)
    for step in range(2):
        sums = [level.cluster_sum.clone() for level in quantizer.levels]
        quantizer(signal.flat(io["latents"]))
        if step < warmup or warmup == 0:  # without a warm-up the reference never moves its sums
            for level, before in zip(quantizer.levels, sums, strict=True):
                level.cluster_sum.copy_(before)
                level.codebook.copy_(ema_codes(level.cluster_size, before, level.count_floor))
    for depth, level in enumerate(quantizer.levels):
        assert_close("codebook", level.codebook, io[f"codebook{depth}_after2"][: config["n_embed"]])
        assert_close("counts", level.cluster_size, io[f"cluster_size{depth}_after2"])
        assert_close("sums", level.cluster_sum, io[f"embed_ema{depth}_after2"])


def compare_taps(config: dict[str, Any], signal: Signal, out: Quantized, io: dict[str, Tensor]) -> list[Tensor]:
    depths = config["code_depth"]
    parts = dict(zip(sorted(set(depths)), out.latents.split(config["embed_dim"], dim=-1), strict=True))
    found = [signal.like(parts[depth]) for depth in depths]
    for name, part in zip(("pixel", "semantic"), found, strict=True):
        assert_close(name, part, io[f"quantized_{name}"])
    return found


PORTS: dict[str, Check] = {
    "encodec.quantization.vq.ResidualVectorQuantizer": encodec,
    "encoder.quantization.vq.ResidualVectorQuantizer": wavtokenizer,
    "dac.nn.quantize.ResidualVectorQuantize": dac_rvq,
    "moshi.quantization.vq.SplitResidualVectorQuantizer": mimi,
    "tokenizer.quantizer.shared_rq_quantizer.SharedResidualQuantizer": evotok,
}
