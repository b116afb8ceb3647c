"""TA-TiTok: what a caption does, and where captions come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import cases
from torch import Tensor

import zoo
from decoders import ViT1DDecoder
from encoders import ViT1D
from quantizers import FSQ, KL, VQ, ClusteringVQ, Quantizer
from zoo.families import HashedText, NestedDropout, TATiTok

SIZE = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_tokens": 6}
TEXT = {"text_dim": 12, "text_length": 5}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32) * 2 - 1


def tokenizer(quantizer: Quantizer | None = None, **options: Any) -> TATiTok:
    quantizer = quantizer or VQ(5, 24)
    options = {"text": HashedText(12, 5), **options}
    return TATiTok(
        ViT1D(**SIZE, dim=quantizer.input_dim), quantizer, ViT1DDecoder(**SIZE, dim=quantizer.dim, **TEXT), **options
    ).eval()


@pytest.mark.parametrize("quantizer", [VQ(5, 24), FSQ([5, 5, 4]), KL(3), ClusteringVQ(5, 24)])
@pytest.mark.parametrize("text", [None, "a cat", ["a cat", ""], torch.randn(2, 5, 12), torch.randn(1, 3, 12)])
@torch.no_grad()
def test_decode_of_encode_is_forward(quantizer: Quantizer, text: Any) -> None:
    tok, x = tokenizer(quantizer), images()
    assert torch.equal(tok.decode(tok.encode(x, text), text=text), tok(x, text).output)


@torch.no_grad()
def test_the_decoder_reads_the_caption_and_the_encoder_does_not() -> None:
    tok, x = tokenizer(), images()
    tokens = tok.encode(x, "a cat")
    assert tokens.equal(tok.encode(x))
    plain, told = tok.decode(tokens), tok.decode(tokens, text=["", "a cat"])
    torch.testing.assert_close(told[0], plain[0])
    assert (told[1] - plain[1]).abs().max() > 1e-4
    assert torch.equal(plain, tok.decode(tokens, text=""))
    torch.testing.assert_close(tok.decode(tokens, text="a cat")[1], told[1])


@torch.no_grad()
def test_ragged_prefixes_decode_as_alone() -> None:
    tok, x = tokenizer(dropout=NestedDropout()), images(3)
    assert tok.spec.flexible and tok.spec.order == "coarse_to_fine"
    texts, counts = ["a", "b c", ""], torch.tensor([6, 2, 4])
    tokens = tok.encode(x)
    together = tok.decode(tokens.keep(counts), text=texts)
    for number, count in enumerate(counts.tolist()):
        alone = tok.decode(tokens[number].keep(count), text=texts[number])
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)


def test_every_parameter_learns_and_the_tower_is_none_of_them() -> None:
    tok = tokenizer(ClusteringVQ(5, 24)).train()
    shown = tok(images(), ["a cat", "a dog"])
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in tok.named_parameters() if parameter.grad is None]
    assert not [name for name in tok.state_dict() if name.startswith("tower")]


def test_exposed_features_reach_the_extras() -> None:
    tok = tokenizer()
    tok.expose("encoder.1", "decoder.2")
    extras = tok(images()).extras
    assert {name: tuple(value.shape) for name, value in extras.items()} == {
        "encoder.1": (2, 32, 4, 4),
        "decoder.2": (2, 32, 4, 4),
    }


@torch.no_grad()
def test_saves_and_loads_with_its_tower(tmp_path: Path) -> None:
    tok = zoo.build("ta_titok_tiny").eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    again = zoo.load(tok.save_pretrained(tmp_path))
    assert torch.equal(again.decode(again.encode(x), text="a cat"), tok.decode(tok.encode(x), text="a cat"))
    assert isinstance(again.tower, HashedText)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["a cat"] * 3, "one caption for each of 2 items"),
        ([1, 2], "one caption for each of 2 items.*int"),
        (torch.randn(3, 5, 12), r"features \(2, L, W\)"),
        (torch.zeros(2, 5, 12, dtype=torch.int64), r"features \(2, L, W\) of floats"),
        (torch.randn(2, 5, 13), r"text features must be \(B, 1 to 5, 12\), got \(2, 5, 13\)"),
        (torch.randn(2, 6, 12), r"text features must be \(B, 1 to 5, 12\), got \(2, 6, 12\)"),
    ],
)
def test_wrong_texts_are_explained(text: Any, message: str) -> None:
    tok, x = tokenizer(), images()
    with pytest.raises(ValueError, match=message):
        tok(x, text)
    with pytest.raises(ValueError, match=message):
        tok.decode(tok.encode(x), text=text)


def test_wrong_parts_and_options_are_explained() -> None:
    x = images()
    deaf = ViT1DDecoder(**SIZE, dim=5)
    with pytest.raises(ValueError, match=r"needs a decoders\.ViT1DDecoder with text_dim"):
        TATiTok(ViT1D(**SIZE, dim=5), VQ(5, 24), deaf)
    with pytest.raises(ValueError, match="reads no text"):
        deaf(torch.randn(2, 6, 5), text=torch.randn(2, 5, 12))
    tok = tokenizer(text=None)
    with pytest.raises(ValueError, match="without a text tower"):
        tok(x, "a cat")
    assert tok(x, torch.randn(2, 5, 12)).output.shape == x.shape
    with pytest.raises(ValueError, match="reads text; give it features"):
        tok.decoder(torch.randn(2, 6, 5))
    with pytest.raises(ValueError, match="2 items need as many texts, got 1"):
        tok.decoder(torch.randn(2, 6, 5), text=torch.randn(1, 5, 12))
    with pytest.raises(ValueError, match="one step; steps has no meaning"):
        tok.decode(tok.encode(x), steps=4)


@torch.no_grad()
def test_compiles_whole() -> None:
    tok, features, x = tokenizer(), torch.randn(2, 5, 12), images()
    torch.compiler.reset()
    decoder = torch.compile(tok.decoder, fullgraph=True, backend="aot_eager")
    latents = tok.quantizer(tok.encoder(x)).latents
    torch.testing.assert_close(decoder(latents, text=features), tok.decoder(latents, text=features))


def test_usage_statistics_follow_the_config() -> None:
    found = list(cases("ta_titok"))
    if not found:
        pytest.skip("no golden case of TA-TiTok")
    case = found[0]
    tok = TATiTok.from_reference(case.config, case.state)
    assert isinstance(tok.quantizer, ClusteringVQ) and tok.quantizer.share.any()
    model = case.config["model"]["vq_model"]
    for change in ({"clustering_vq": False}, {"use_l2_norm": True}):
        plain = TATiTok.from_reference({**case.config, "model": {"vq_model": {**model, **change}}}, case.state)
        assert type(plain.quantizer) is VQ
        assert torch.equal(plain.quantizer.codebook, tok.quantizer.codebook)
    with pytest.raises(ValueError, match="single stage"):
        TATiTok.reference_recipe({**case.config, "model": {"vq_model": {**model, "is_legacy": True}}})
