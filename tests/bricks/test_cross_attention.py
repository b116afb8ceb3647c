"""Queries that read a memory, and the convolutional bricks around them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from encoders.layers.cross_attention import CrossAttention, QueryBlock, QueryTransformer
from encoders.layers.vqgan import AdaptiveGroupNorm, DepthToSpace, Downsample, VQGANBlock, check_widths


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_cross_attention_is_that_of_torch() -> None:
    ours, theirs = CrossAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for part, weight, bias in zip(
            (ours.query, ours.key, ours.value),
            theirs.in_proj_weight.chunk(3),
            theirs.in_proj_bias.chunk(3),
            strict=True,
        ):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        ours.proj.load_state_dict(theirs.out_proj.state_dict())
    queries, keys, values = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    seen = torch.arange(7) < torch.tensor([[7], [3]])
    expected, _ = theirs(queries, keys, values, key_padding_mask=~seen)
    torch.testing.assert_close(ours(queries, keys, values, seen[:, None, None]), expected)
    with pytest.raises(ValueError, match="multiple of heads"):
        CrossAttention(12, 5)


def test_rows_are_those_of_the_whole() -> None:
    block = QueryBlock(12, 3)
    inputs = (torch.randn(2, 6, 12), torch.randn(6, 12), torch.randn(2, 9, 12), torch.randn(2, 9, 12))
    torch.testing.assert_close(block(*inputs, rows=slice(1, 4)), block(*inputs)[:, 1:4])


def test_masked_memory_is_as_if_cut() -> None:
    stack = QueryTransformer(12, 2, 3)
    x, memory, position, places = torch.randn(2, 6, 12), torch.randn(2, 9, 12), torch.randn(6, 12), torch.randn(9, 12)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    seen: list[int] = []
    out = stack(
        x, memory, position=position, memory_position=places, mask=mask, watch=lambda number, _: seen.append(number)
    )
    cut = stack(x[1:], memory[1:, :4], position=position, memory_position=places[:4])
    torch.testing.assert_close(out[1:], cut)
    assert seen == [1, 2]


def test_depth_to_space_has_offsets_first() -> None:
    layer = DepthToSpace(3)
    x = torch.randn(1, 3, 4, 5)
    wide, out = layer.conv(x), layer(x)
    assert out.shape == (1, 3, 8, 10)
    assert torch.equal(out[0, 1, 3, 4], wide[0, 2 * 3 + 1, 1, 2])  # row offset 1, column offset 0, channel 1


def test_adaptive_group_norm() -> None:
    layer = AdaptiveGroupNorm(32, 4)
    x, style = torch.randn(2, 32, 6, 6), torch.randn(2, 4, 3, 3)
    gain, bias = layer.gamma(style.flatten(2).std(-1)), layer.beta(style.mean((2, 3)))
    expected = gain[..., None, None] * F.group_norm(x, 32) + bias[..., None, None]
    torch.testing.assert_close(layer(x, style), expected, rtol=1e-3, atol=1e-4)


def test_convolutions() -> None:
    x = torch.randn(1, 32, 6, 8)
    assert Downsample(32)(x).shape == (1, 32, 3, 4)
    block = VQGANBlock(32, 64)
    assert block(x).shape == (1, 64, 6, 8) and block.shortcut is not None
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.get_parameter("bias"))
    torch.testing.assert_close(block(x), block.shortcut(x))
    assert check_widths(32, [1, 2]) == [32, 64]
    with pytest.raises(ValueError, match="multiples of 32"):
        check_widths(32, [])
