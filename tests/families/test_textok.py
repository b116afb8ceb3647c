"""TexTok: encoder and decoder read the caption."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from decoders import ViT1DDecoder
from encoders import ViT1D
from quantizers import FSQ, KL, VQ, Identity, Quantizer
from zoo.families import HashedText, TexTok
from zoo.store.build import build

SIZE = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_tokens": 6}
TEXT = {"text_dim": 12, "text_length": 5}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32) * 2 - 1


def tokenizer(quantizer: Quantizer | None = None) -> TexTok:
    quantizer = quantizer or KL(3)
    encoder = ViT1D(**SIZE, dim=quantizer.input_dim, **TEXT)
    return TexTok(encoder, quantizer, ViT1DDecoder(**SIZE, dim=quantizer.dim, **TEXT), HashedText(12, 5)).eval()


@pytest.mark.parametrize("quantizer", [VQ(5, 24), FSQ([5, 5, 4]), KL(3), Identity(4)])
@pytest.mark.parametrize("text", [None, "a cat", ["a cat", ""], torch.randn(2, 5, 12)])
@torch.no_grad()
def test_decode_of_encode_is_forward(quantizer: Quantizer, text: Any) -> None:
    tok, x = tokenizer(quantizer), images()
    assert torch.equal(tok.decode(tok.encode(x, text), text=text), tok(x, text).output)


@torch.no_grad()
def test_both_sides_read_the_caption() -> None:
    tok, x = tokenizer(), images()
    plain, told = tok.encode(x), tok.encode(x, ["", "a cat"])
    assert plain.latents is not None and told.latents is not None
    torch.testing.assert_close(told.latents[0], plain.latents[0])
    assert (told.latents[1] - plain.latents[1]).abs().max() > 1e-5
    assert (tok.decode(plain) - tok.decode(plain, text="a cat")).abs().max() > 1e-5
    with pytest.raises(ValueError, match="one caption for each of 2 items"):
        tok.encode(x, ["a cat"] * 3)
    with pytest.raises(ValueError, match="finite"):
        tok.encode(x / 0)


def test_every_parameter_learns() -> None:
    tok = tokenizer().train()
    shown = tok(images(), ["a cat", "a dog"])
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in tok.named_parameters() if parameter.grad is None]


def test_needs_an_encoder_that_reads_and_has_no_reference() -> None:
    with pytest.raises(ValueError, match=r"needs an encoders\.ViT1D with text_dim"):
        TexTok(ViT1D(**SIZE, dim=5), VQ(5, 24), ViT1DDecoder(**SIZE, dim=5, **TEXT))
    with pytest.raises(ValueError, match="without code or weights"):
        TexTok.from_reference({}, {})


@pytest.mark.parametrize(("name", "count"), [("textok_32", 32), ("textok_64", 64), ("textok_256", 256)])
def test_published_sizes(name: str, count: int) -> None:
    """The paper gives two ViT-B, about 176 M parameters together, and latents of 8 channels."""
    tok = build(name, device="meta")
    assert isinstance(tok, TexTok) and tok.spec.num_tokens == count and tok.spec.dim == 8 and tok.spec.continuous
    assert 175.0e6 < sum(parameter.numel() for parameter in tok.parameters()) < 176.5e6
    assert zoo.list_models("textok*") == []
