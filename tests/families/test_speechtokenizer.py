"""SpeechTokenizer: the first level's features, and codes that begin at a later level."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.families import SpeechTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(0)
    built = zoo.build("speechtokenizer_tiny").eval()
    assert isinstance(built, SpeechTokenizer)
    for level in built.quantizer.levels:  # type: ignore[union-attr]
        level.codebook.normal_()
    return built


def test_semantic_features_are_of_the_first_level(tokenizer: SpeechTokenizer) -> None:
    x = torch.rand(2, 1, 1600) * 2 - 1
    with torch.no_grad():
        tokens, shown = tokenizer.encode(x), tokenizer(x)
        features = tokenizer.semantic_features(tokens)
    assert features.shape == (2, 5, 32)
    torch.testing.assert_close(features, shown.extras["semantic"])
    assert torch.equal(features, tokenizer.semantic_features(tokens.keep_codebooks(1)))
    trained = zoo.build("speechtokenizer_tiny").train()
    trained(x).extras["semantic"].sum().backward()
    assert trained.encoder.stem.weight.grad.any() and trained.decoder.stem.weight.grad is None


def test_later_levels_read_the_latents_themselves(tokenizer: SpeechTokenizer) -> None:
    x = torch.rand(1, 1, 1600) * 2 - 1
    with torch.no_grad():
        whole, later = tokenizer.encode(x), tokenizer.encode(x, first=1)
        assert later.indices.shape == (1, 5, 3) and not torch.equal(later.indices, whole.indices[..., 1:])
        level = tokenizer.quantizer.levels[1]  # type: ignore[union-attr, index]
        assert torch.equal(later.indices[..., :1], level(tokenizer.encode_latents(x)).indices)
        assert tokenizer.decode(later, first=1).shape == x.shape
        assert not torch.equal(tokenizer.decode(later, first=1), tokenizer.decode(later))
        assert tokenizer.encode(x, first=2, codebooks=1).indices.shape[-1] == 1
    for first in (-1, 4):
        with pytest.raises(ValueError, match="first lies in 0 to 3"):
            tokenizer.encode(x, first=first)
    with pytest.raises(ValueError, match="indices"):
        tokenizer.decode(whole, first=1)


def test_other_activations_are_refused() -> None:
    config = {"dimension": 8, "activation": "ReLU"}
    with pytest.raises(ValueError, match="ELU or Snake"):
        SpeechTokenizer.reference_recipe(config)
