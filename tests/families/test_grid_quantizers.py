"""Quantizers whose tokens are not one a cell, in a grid tokenizer."""

import pytest
import torch

import zoo
from decoders import PatchConvDecoder
from encoders import PatchConvEncoder
from quantizers import VQ, MultiScaleVQ, Quantizer, Residual
from zoo.families import GridTokenizer


def grid(quantizer: Quantizer) -> GridTokenizer:
    encoder = PatchConvEncoder(quantizer.input_dim, patch_size=8, width=16, depth=1)
    decoder = PatchConvDecoder(quantizer.dim, patch_size=8, width=16, depth=1, fine_width=8, fine_depth=1)
    return GridTokenizer(encoder, quantizer, decoder, image_size=32).eval()


@torch.no_grad()
def test_scales_are_tokens_coarse_to_fine() -> None:
    tokenizer = grid(MultiScaleVQ(VQ(6, 32), (1, 2, 4)))
    assert (tokenizer.spec.order, tokenizer.spec.scales, tokenizer.spec.num_tokens) == ("scales", (1, 4, 16), 21)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = tokenizer.encode(x)
    assert [indices.shape[1] for indices in tokens.by_scale()] == [1, 4, 16]
    assert torch.equal(tokenizer.decode(tokens), tokenizer(x).output)
    assert tokens.bits().tolist() == [21 * 5] * 2
    with pytest.raises(ValueError, match="32"):
        tokenizer.encode(torch.zeros(1, 3, 64, 64))


@torch.no_grad()
def test_levels_are_columns() -> None:
    tokenizer = grid(Residual(VQ(6, 32), 3))
    x = torch.rand(2, 3, 40, 24) * 2 - 1
    tokens = tokenizer.encode(x)
    assert tokens.indices.shape == (2, 15, 3)
    assert torch.equal(tokenizer.decode(tokens), tokenizer(x).output)


def test_widths_and_scales_must_fit() -> None:
    with pytest.raises(ValueError, match="the last of the scales has 9 cells, images of 32 pixels 16"):
        grid(MultiScaleVQ(VQ(6, 32), (1, 3)))
    encoder = PatchConvEncoder(5, patch_size=8, width=16, depth=1)
    decoder = PatchConvDecoder(6, patch_size=8, width=16, depth=1, fine_width=8, fine_depth=1)
    with pytest.raises(ValueError, match=r"encoder\.dim=5 in front of a quantizer that reads 6"):
        GridTokenizer(encoder, VQ(6, 32), decoder)
    assert zoo.build("fsq_f8_tiny", device="meta").quantizer.input_dim == 6
