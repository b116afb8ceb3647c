"""Residual quantizers of the audio codecs and of EvoTok."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quantizers import VQ
from quantizers.codebook import kmeans

from .common import Check, assert_close, load


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


PORTS: dict[str, Check] = {
    "encodec.quantization.vq.ResidualVectorQuantizer": encodec_single,
    "encoder.quantization.vq.ResidualVectorQuantizer": encodec_single,
}
