"""MaskGIT-VQGAN as a tokenizer for images of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoders import MaskGITDecoder
from encoders import MaskGITEncoder
from quantizers import FSQ, VQ
from zoo.families import MaskGITVQGAN

SIZE: dict[str, Any] = {"dim": 4, "channels": 32, "multipliers": (1, 2, 2), "depth": 1}


@pytest.fixture
def tok() -> MaskGITVQGAN:
    torch.manual_seed(0)
    return MaskGITVQGAN(MaskGITEncoder(**SIZE), VQ(4, 20), MaskGITDecoder(**SIZE), image_size=16).eval()


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (19, 13), (1, 5)])
def test_any_size_comes_back(tok: MaskGITVQGAN, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        tokens = tok.encode(x)
        out = tok.decode(tokens)
        assert torch.equal(out, tok(x).output)
    assert tokens.indices.shape == (2, -(-size[0] // 4) * -(-size[1] // 4), 1)
    assert out.shape == x.shape


def test_every_parameter_learns(tok: MaskGITVQGAN) -> None:
    shown = tok.train()(torch.rand(2, 3, 16, 16) * 2 - 1)
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in tok.named_parameters() if parameter.grad is None]


def test_compiles_as_one_graph(tok: MaskGITVQGAN) -> None:
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z = tok.encoder(x)
        compiled = torch.compile(tok.encoder, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, z, rtol=1e-5, atol=1e-6)
        compiled = torch.compile(tok.decoder, fullgraph=True, backend="aot_eager")(z, (4, 4))
        torch.testing.assert_close(compiled, tok.decoder(z, (4, 4)), rtol=1e-5, atol=1e-6)


def test_shapes_that_do_not_fit_are_refused(tok: MaskGITVQGAN) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        tok.encoder(torch.zeros(1, 3, 10, 16))
    with pytest.raises(ValueError, match=r"\(B, 12, 4\)"):
        tok.decoder(torch.zeros(1, 11, 4), (3, 4))
    with pytest.raises(ValueError, match="widths differ"):
        MaskGITVQGAN(tok.encoder, FSQ([5, 5, 5]), tok.decoder)
    with pytest.raises(ValueError, match="multiples of 32"):
        MaskGITEncoder(channels=40)
