"""The ViT bricks of the 1D image families."""

from __future__ import annotations

import pytest
import torch

from decoders import MaskGITDecoder, ProxyDecoder, ViT1DDecoder
from encoders import ViT1D
from encoders.layers.attention import Attention

SIZE = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_tokens": 6, "dim": 5}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_attention_rows_are_those_of_the_whole() -> None:
    attention = Attention(16, 4).eval()
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(attention(x, rows=slice(3, 7)), attention(x)[:, 3:7], rtol=0, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
def test_encoder_shape_and_gradients(legacy: bool) -> None:
    encoder = ViT1D(**SIZE, legacy_reshape=legacy)
    out = encoder(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert out.shape == (2, 6, 5)
    (out * torch.randn_like(out)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


@pytest.mark.parametrize("proxy_codes", [None, 16])
def test_ragged_lengths_equal_truncated_singles(proxy_codes: int | None) -> None:
    decoder = ViT1DDecoder(**SIZE, proxy_codes=proxy_codes).eval()
    latents = torch.randn(4, 6, 5)
    lengths = torch.tensor([1, 6, 3, 5])
    with torch.no_grad():
        together = decoder(latents, lengths)
        singles = torch.cat([decoder(latents[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(together, singles, rtol=1e-5, atol=1e-6)


def test_what_is_left_out_may_hold_anything() -> None:
    decoder = ViT1DDecoder(**SIZE).eval()
    latents, lengths = torch.randn(2, 6, 5), torch.tensor([2, 6])
    spoiled = latents.clone()
    spoiled[0, 2:] = torch.nan
    with torch.no_grad():
        assert torch.equal(decoder(latents, lengths), decoder(spoiled, lengths))


def test_every_decoder_parameter_learns() -> None:
    pixels = MaskGITDecoder(dim=4, channels=32, multipliers=(1, 2), depth=1)
    for decoder in (ViT1DDecoder(**SIZE), ProxyDecoder(ViT1DDecoder(**SIZE, proxy_codes=16), pixels)):
        out = decoder(torch.randn(2, 6, 5))
        (out * torch.randn_like(out)).sum().backward()
        idle = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
        assert not idle


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 6])])
def test_compiles_as_one_graph(lengths: torch.Tensor | None) -> None:
    encoder, decoder = ViT1D(**SIZE).eval(), ViT1DDecoder(**SIZE).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = encoder(x)
        compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, z, rtol=1e-5, atol=1e-6)
        compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")(z, lengths)
        torch.testing.assert_close(compiled, decoder(z, lengths), rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_stays_close() -> None:
    encoder, decoder = ViT1D(**SIZE).eval(), ViT1DDecoder(**SIZE).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = decoder(encoder(x), torch.tensor([3, 6]))
    with torch.no_grad():
        full = decoder(encoder(x), torch.tensor([3, 6]))
    torch.testing.assert_close(mixed.float(), full, rtol=0, atol=0.1)


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (2, 1, 32, 32), (3, 32, 32)])
def test_encoder_names_the_shape_it_wants(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got"):
        ViT1D(**SIZE)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 0, 5), (2, 6, 4), (6, 5)])
def test_decoder_names_the_shape_it_wants(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 6"):
        ViT1DDecoder(**SIZE)(torch.zeros(shape))


@pytest.mark.parametrize("wrong", [{"patch_size": 7}, {"heads": 3}, {"depth": 0}], ids=["patch_size", "heads", "depth"])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    for build in (ViT1D, ViT1DDecoder):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(**{**SIZE, **wrong})
