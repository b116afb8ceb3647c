"""Distillation of a speech model: its formula, its teacher's weights, and where its gradient goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import zoo
from quantizers import Quantized
from zoo.objectives import SpeechDistillation
from zoo.store.build import compose, instantiate
from zoo.tokenizer import Reconstruction

STATE = Path(__file__).parents[1] / "golden" / "sylber" / "tiny" / "state.safetensors"
NET: dict[str, Any] = {
    "dim": 32, "depth": 2, "heads": 4, "hidden": 48, "widths": [16] * 7, "position_kernel": 16, "position_groups": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> zoo.Tokenizer:
    torch.manual_seed(0)
    return zoo.build("speechtokenizer_tiny")


def noise(samples: int = 6400) -> torch.Tensor:
    return torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(0)) * 0.1


def given(features: torch.Tensor, x: torch.Tensor) -> Reconstruction:
    empty = torch.zeros(len(x), 1, 1)
    return Reconstruction(x, Quantized(empty, empty.long(), torch.zeros(()), {}), extras={"semantic": features})


def test_each_channel_follows_the_teacher_over_time(tokenizer: zoo.Tokenizer) -> None:
    x, loss = noise(), SpeechDistillation(None, net=NET)
    loss.prepare(tokenizer)
    assert not list(loss.parameters()) and not loss.state_dict()
    taught = loss.features(x)
    assert taught.shape == (2, 19, 32)  # whole windows: one less than tokens
    ours = torch.randn(2, 20, 32)
    expected = -torch.stack(
        [F.logsigmoid(F.cosine_similarity(ours[b, :19, d], taught[b, :, d], dim=0)) for b in (0, 1) for d in range(32)]
    ).mean()
    torch.testing.assert_close(loss(x, given(ours, x)), expected)
    torch.testing.assert_close(loss(x, given(taught * 3, x)), -F.logsigmoid(torch.ones(())))
    again = SpeechDistillation(None, net=NET)
    again.prepare(tokenizer)
    assert torch.equal(again.features(x), taught)  # a training that goes on has the same teacher
    last = SpeechDistillation(None, net=NET, block=2)
    last.prepare(tokenizer)
    assert last.teacher is not None
    calm = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    torch.testing.assert_close(last.features(x), last.teacher.net(calm), rtol=1e-4, atol=1e-5)


def test_the_recipe_moves_the_first_codebook_and_the_encoder(tokenizer: zoo.Tokenizer) -> None:
    objective = instantiate(compose("speechtokenizer_tiny").objective)
    objective.prepare(tokenizer)
    x = noise()
    terms = objective(x, tokenizer(x))
    plain = objective.weights["mel"] * terms["mel"] + terms["stft"] + terms["quantizer"]
    torch.testing.assert_close(terms["loss"], plain + terms["distillation"])
    slopes = torch.autograd.grad(terms["distillation"], [tokenizer.transform.weight, tokenizer.encoder.stem.weight])
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_weights_of_transformers(tokenizer: zoo.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"hubert.{key}": value for key, value in load_file(STATE).items()}
    state["hubert.masked_spec_embed"] = torch.zeros(32)
    save_file(state, tmp_path / "model.safetensors")
    loss = SpeechDistillation(tmp_path / "model.safetensors", net=NET)
    loss.prepare(tokenizer)
    (tmp_path / "hub" / "org" / "hubert").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "org" / "hubert" / "pytorch_model.bin")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    fetched = SpeechDistillation("org/hubert", net=NET)
    fetched.prepare(tokenizer)
    x = noise()
    assert torch.equal(fetched.features(x), loss.features(x))
    with pytest.raises(RuntimeError, match="needs HuBERT's weights from org/other"):
        SpeechDistillation("org/other", net=NET).prepare(tokenizer)
    with pytest.raises(RuntimeError, match="missing"):
        SpeechDistillation("org/hubert", net=NET | {"depth": 3}).prepare(tokenizer)


def test_errors(tokenizer: zoo.Tokenizer) -> None:
    x, loss = noise(), SpeechDistillation(None, net=NET)
    with pytest.raises(RuntimeError, match="call prepare"):
        loss(x, given(torch.zeros(2, 20, 32), x))
    with pytest.raises(ValueError, match="HuBERT hears 16000 Hz, the tokenizer 24000"):
        loss.prepare(zoo.build("encodec_24k", device="meta"))
    with pytest.raises(ValueError, match="1 to 12, got 13"):
        SpeechDistillation(block=13)
    loss.prepare(tokenizer)
    with pytest.raises(ValueError, match=r"as \(B, N, 32\) in extras, got \(2, 20, 31\)"):
        loss(x, given(torch.zeros(2, 20, 31), x))
