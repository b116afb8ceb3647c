"""Speaker similarity: cosines of x-vectors, by a small WavLM in a folder that stands in for the hub."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.metrics import speaker
from zoo.metrics.speaker import SpeakerSimilarity, XVector

NAME = "microsoft/wavlm-base-plus-sv"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft(x[:64]).abs()


def test_cosine_of_any_embedding() -> None:
    x, y = noise(2, 1, 4000), noise(2, 1, 4000, seed=1)
    metric = SpeakerSimilarity(16000, spectrum)
    metric.update(y, x)
    expected = torch.stack(
        [torch.cosine_similarity(spectrum(y[row, 0]), spectrum(x[row, 0]), dim=0) for row in range(2)]
    )
    assert float(metric.compute()) == pytest.approx(float(expected.mean()), abs=1e-6)
    assert metric.details() == {"rate": 16000, "network": "spectrum"}
    metric.reset()
    metric.update(x, x)
    assert float(metric.compute()) == pytest.approx(1)


def test_silence_has_no_speaker() -> None:
    metric = SpeakerSimilarity(16000, spectrum)
    x = noise(1, 1, 4000)
    metric.update(torch.zeros_like(x), x)
    metric.update(x, torch.zeros_like(x))
    metric.update(x[..., :100], x[..., :100])
    assert math.isnan(metric.compute()) and metric.skipped == 3


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small WavLM with an x-vector head where the hub would have the published one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embedding_groups=2, tdnn_dim=(8,) * 5, xvector_output_dim=12, mask_time_prob=0.0,
    )  # fmt: skip
    net = transformers.WavLMForXVector(config).eval()
    net.save_pretrained(tmp_path / NAME)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / NAME)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    yield net
    speaker._network.cache_clear()


def test_x_vectors_are_those_of_transformers(hub: Any) -> None:
    x, y = noise(1, 1, 16000), noise(1, 1, 16000, seed=1)
    metric = SpeakerSimilarity(16000, XVector())
    metric.update(y, x)

    def embedded(sound: Tensor) -> Tensor:
        normed = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
        return hub(normed[None]).embeddings[0].detach()

    expected = torch.cosine_similarity(embedded(y[0, 0]), embedded(x[0, 0]), dim=0)
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-5)
    details = metric.details()
    assert details["network"] == NAME and len(details["sha256"]) == 64
    metric.update(y[..., :2000], x[..., :2000])  # shorter than the head reads
    assert metric.count == 2


def test_what_cannot_be_had(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"needs the network org/other.*--weights speaker=FOLDER"):
        XVector("org/other")
    with pytest.raises(ValueError, match="no network of transformers"):
        XVector(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"transformers: pip install tokenizer-zoo\[speech\]"):
        XVector()
