"""Schedules, parameter groups, codebook usage, moving average, checkpoint files, strategies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

import zoo
from quantizers import Quantized
from zoo.objectives import ImageObjective
from zoo.tokenizer import Reconstruction
from zoo.training.module import Settings, TokenizerTraining, freeze
from zoo.training.optim import build_optimizer, decayed_names, decays, schedule
from zoo.training.run import strategy
from zoo.training.snapshots import Snapshots, checkpoints, last_checkpoint


def test_cosine_schedule() -> None:
    rate = schedule("cosine", max_steps=110, warmup_steps=10, final=0.2)
    rises = [rate(step) for step in range(11)]
    assert rises == sorted(rises)
    assert rises[0] > 0
    assert rate(10) == 1
    assert math.isclose(rate(60), 0.6)
    assert math.isclose(rate(110), 0.2)
    assert math.isclose(rate(1000), 0.2)
    assert schedule("constant", max_steps=10, warmup_steps=2)(7) == 1
    with pytest.raises(ValueError, match="cosine or constant"):
        schedule("linear", max_steps=1)


def test_weight_decay_groups() -> None:
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert decays("encoder.blocks.0.mlp.weight", matrix)
    assert not decays("encoder.blocks.0.mlp.weight", vector)
    for name in ("latent_tokens", "decoder.mask_token", "a.ln_1.weight", "x.positional_embedding", "b.norm.w", "gamma"):
        assert not decays(name, matrix)
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = build_optimizer(net.named_parameters(), decayed_names(net), lr=1.0, weight_decay=0.1).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 3)]
    with pytest.raises(ValueError, match="no parameter is left"):
        build_optimizer(net.requires_grad_(False).named_parameters(), set(), lr=1.0)


def test_freezing_by_prefix() -> None:
    net = nn.ModuleDict({"encoder": nn.Linear(2, 2), "encoder2": nn.Linear(2, 2), "act": nn.GELU()})
    still = freeze(net, ["encoder"], [])
    assert still == [net["encoder"]]
    assert freeze(net, ["act"], []) == [net["act"]]
    assert freeze(net, [], ["encoder2"]) == [net["encoder"], net["act"]]
    assert not net["encoder"].weight.requires_grad
    assert net["encoder2"].weight.requires_grad
    with pytest.raises(ValueError, match="its parts are encoder, encoder2"):
        freeze(net, [], ["encoder.nothing"])


def module(**settings: Any) -> TokenizerTraining:
    options = {"optimizer": {"lr": 0.1}, "schedule": {"kind": "constant"}, "max_steps": 10, **settings}
    return TokenizerTraining(zoo.build("titok_tiny"), ImageObjective(), Settings(**options))


def test_codebook_usage_of_the_steps_since_the_last_report() -> None:
    training = module()
    quantized = Quantized(torch.zeros(1, 4, 1), torch.tensor([[[0], [0], [3], [3]]]), torch.zeros(()))
    training.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    for _ in range(2):
        training.report("train", {}, Reconstruction(torch.zeros(()), quantized), 1)
    (size,) = training.tokenizer.spec.codebook_sizes
    assert training.usage("train") == {"train/usage": 2 / size, "train/perplexity": pytest.approx(2)}
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert training.usage("train") == training.usage("val") == {}
    assert not any("statistics" in name for name in training.state_dict())


def test_moving_average() -> None:
    training = module(ema=0.05)
    assert training.best is training.average
    start = {name: value.clone() for name, value in training.average.named_parameters()}
    with torch.no_grad():
        for parameter in training.tokenizer.parameters():
            parameter.add_(1.0)
    training.update_average()
    for name, value in training.average.named_parameters():
        expected = 0.05 * start[name] + 0.95 * training.tokenizer.get_parameter(name)
        assert torch.allclose(value, expected, atol=1e-6)
        assert not value.requires_grad
    training.train()
    assert training.tokenizer.training
    assert not training.average.training
    assert module().best is not None
    assert module().average is None


def test_frozen_parts_stay_in_eval_mode() -> None:
    training = module(freeze=["encoder", "quantizer"])
    assert not training.tokenizer.encoder.training
    assert not training.tokenizer.quantizer.training
    assert training.tokenizer.decoder.training


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"strategy": "fsdp", "devices": 8}, ModelParallelStrategy),
        ({"strategy": "ddp", "devices": "auto"}, DDPStrategy),
        ({"strategy": "auto", "devices": 2}, DDPStrategy),
        ({"strategy": "auto", "devices": [0, 1]}, DDPStrategy),
        ({"strategy": "auto", "devices": 1, "num_nodes": 2}, DDPStrategy),
        ({"strategy": "auto", "devices": 1}, str),
        ({"strategy": "auto", "devices": "auto"}, str),
    ],
    ids=str,
)
def test_strategies(options: dict[str, Any], kind: type) -> None:
    assert isinstance(strategy({"accelerator": "cpu", "num_nodes": 1, **options}), kind)


def test_checkpoint_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert last_checkpoint(tmp_path) is None
    for name in ("step-000000010.ckpt", "step-000000009.ckpt", "step-000000011.partial", "other.ckpt"):
        (folder / name).touch()
    assert [path.name for path in checkpoints(folder)] == ["step-000000009.ckpt", "step-000000010.ckpt"]
    assert last_checkpoint(tmp_path) == folder / "step-000000010.ckpt"
    with pytest.raises(ValueError, match="minutes >= 0"):
        Snapshots(folder, -1)
