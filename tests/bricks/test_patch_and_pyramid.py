"""The bricks under the embedded models: patch transforms, pyramids of tokens, convolutional and pyramid codecs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from decoders import PatchConvDecoder, PyramidDecoder
from encoders import PatchConvEncoder, PyramidEncoder
from encoders.layers.dct import init_patch_analysis, init_patch_synthesis, patch_basis
from encoders.layers.pyramid import check_levels, gather_levels, spread_levels

LEVELS = ((1, 1), (1, 2), (2, 2), (4, 4))


def pyramid_codec() -> tuple[PyramidEncoder, PyramidDecoder]:
    size = {"image_size": 32, "levels": LEVELS, "dim": 5, "width": 24, "heads": 3}
    encoder = PyramidEncoder(**size, patch_size=8, conv_width=16)  # type: ignore[arg-type]
    pixels = PatchConvDecoder(8, patch_size=4, width=16, depth=1, fine=2, fine_width=8, fine_depth=1)
    return encoder, PyramidDecoder(**size, pixels=pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("patch", [4, 8])
def test_patch_basis_is_orthonormal_and_sorted(patch: int) -> None:
    basis, scale = patch_basis(patch)
    rows = basis.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    assert (scale.diff() <= 0).all() and (scale > 0).all()
    flat = basis[0]
    assert flat.std() < 1e-6, "the strongest coefficient is the grey mean"


def test_synthesis_inverts_analysis() -> None:
    analysis, synthesis = nn.Conv2d(3, 48, 4, stride=4), nn.ConvTranspose2d(48, 3, 4, stride=4)
    init_patch_analysis(analysis)
    init_patch_synthesis(synthesis)
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(synthesis(analysis(x)), x, atol=1e-4, rtol=0)


def test_spread_inverts_gather() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, 4, 4)
    tokens = gather_levels(features, LEVELS)
    assert tokens.shape == (2, 1 + 2 + 4 + 16, 6)
    torch.testing.assert_close(spread_levels(tokens, LEVELS), features)


def test_prefixes_of_a_pyramid_are_coarser_images() -> None:
    features = torch.randn(1, 3, 8, 8)
    tokens = gather_levels(features, LEVELS)
    errors = []
    for count in (1, 3, 7, 23):
        coarse = F.interpolate(spread_levels(tokens[:, :count], LEVELS), size=(8, 8))
        errors.append(float((coarse - features).square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    torch.testing.assert_close(spread_levels(tokens[:, :1], LEVELS)[0, :, 0, 0], features.mean((2, 3))[0])


def test_levels_must_divide_the_finest() -> None:
    with pytest.raises(ValueError, match="divide"):
        check_levels([(1, 1), (3, 1), (4, 4)])


def test_an_untrained_patch_codec_already_shows_the_picture() -> None:
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4) * 1.6 - 0.8, size=(32, 32), mode="bicubic").clamp(-1, 1)
    encoder, decoder = PatchConvEncoder(12, width=64, depth=1), PatchConvDecoder(12, width=64, depth=1)
    with torch.no_grad():
        output = decoder(encoder(smooth), (4, 4))
    assert F.mse_loss(output, smooth) < 0.3 * smooth.var()


def test_conv_codec_takes_any_grid() -> None:
    encoder, decoder = PatchConvEncoder(6, width=16, depth=1), PatchConvDecoder(6, width=16, depth=1, fine_width=8)
    latents = encoder(torch.zeros(2, 3, 40, 16))
    assert latents.shape == (2, 10, 6)
    assert decoder(latents, (5, 2)).shape == (2, 3, 40, 16)
    with pytest.raises(ValueError, match="multiple of fine"):
        PatchConvDecoder(6, patch_size=6)


def test_pyramid_decoder_ignores_what_lies_past_lengths() -> None:
    torch.manual_seed(0)
    _, decoder = pyramid_codec()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        latents = torch.randn(2, 23, 5)
        latents[0, 4:] = float("nan")
        together = decoder(latents, torch.tensor([4, 23]))
        torch.testing.assert_close(together[:1], decoder(latents[:1, :4]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[1:], decoder(latents[1:]), atol=1e-5, rtol=1e-5)


def test_pyramid_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        PyramidEncoder(image_size=24, levels=LEVELS, dim=4)
    _, decoder = pyramid_codec()
    with pytest.raises(ValueError, match=r"1 to 23"):
        decoder(torch.zeros(1, 24, 5))


def test_parts_compile_whole() -> None:
    encoder, decoder = pyramid_codec()
    conv, grid = PatchConvEncoder(6, width=16, depth=1), PatchConvDecoder(6, width=16, depth=1, fine_width=8)
    x = torch.randn(1, 3, 32, 32)
    for module, arguments in (
        (encoder, (x,)),
        (decoder, (torch.randn(1, 23, 5),)),
        (conv, (x,)),
        (grid, (torch.randn(1, 16, 6), (4, 4))),
    ):
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*arguments), module(*arguments))
