"""The generator that comes with the package draws what it was trained for."""

from __future__ import annotations

import hashlib

import pytest
import torch

import zoo
from zoo.generators.pipeline import Pipeline
from zoo.store.cards import card

NAMES = zoo.list_models(kind="generator", embedded=True)


def test_there_is_one() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_file_is_the_cards(name: str) -> None:
    item = card(name)
    content = item.weights_path.read_bytes()
    assert len(content) <= 12_000_000 and hashlib.sha256(content).hexdigest() == item.weights.sha256
    assert item.metrics and all(metric.measured for metric in item.metrics)
    assert {"data", "command", "seed", "hardware", "wall_clock"} <= set(item.training)
    assert item.recipe in zoo.list_recipes(kind="generator")


@pytest.mark.parametrize("name", NAMES)
def test_classes_look_different(name: str) -> None:
    pipeline = Pipeline.load(name)

    def brightness(label: str) -> float:
        tokens = pipeline.tokens([label] * 8, generator=torch.Generator().manual_seed(0))
        return torch.stack(list(pipeline.decode(tokens))).mean().item()

    assert brightness("snow") > brightness("space") + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_likelier_in_their_order(name: str) -> None:
    pipeline = Pipeline.load(name)
    tokens = pipeline.tokens(["sea"] * 16, generator=torch.Generator().manual_seed(0))
    shuffled = tokens.indices.gather(0, torch.rand(16, tokens.num_tokens, 1).argsort(0))
    condition = torch.full((16,), pipeline.label("sea"))
    with torch.inference_mode():
        own, other = (pipeline.generator.loss(indices, condition).total for indices in (tokens.indices, shuffled))
    assert own < other
