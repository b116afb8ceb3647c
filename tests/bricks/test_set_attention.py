"""Attention to sets, attention with heads of any width, gated MLPs, and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from encoders.layers.affine import Affine
from encoders.layers.attention import MLP, Attention, Block
from encoders.layers.drop_path import drop_path
from encoders.layers.geglu import GEGLU
from encoders.layers.set_attention import ReadBlock, SetAttention


@pytest.mark.parametrize("bias", [False, True])
def test_set_attention_equals_the_definition(bias: bool) -> None:
    torch.manual_seed(0)
    attention, x, members = SetAttention(12, 3, 5, bias=bias), torch.randn(2, 4, 12), torch.randn(2, 7, 12)
    q = attention.query(x).unflatten(-1, (3, 5))
    k, v = (part.unflatten(-1, (3, 5)) for part in attention.key_value(members).chunk(2, -1))
    weights = torch.einsum("blhd,bmhd->bhlm", q, k).div(5**0.5).softmax(-1)
    expected = attention.proj(torch.einsum("bhlm,bmhd->blhd", weights, v).flatten(2))
    torch.testing.assert_close(attention(x, attention.memory(members)), expected)
    with pytest.raises(ValueError, match="multiple of heads"):
        SetAttention(12, 5)


def test_read_block_adds_what_the_set_says() -> None:
    torch.manual_seed(0)
    block, x, members = ReadBlock(8, 2, MLP(8, 16), norm_context=False), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    memory = block.memory(members)
    between = x + block.attn(block.norm(x), block.attn.memory(members))
    torch.testing.assert_close(block.attend(x, memory), between)
    torch.testing.assert_close(block(x, memory), between + block.mlp(block.norm_mlp(between)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("head_dim", [None, 5])
def test_rows_of_attention_are_rows_of_the_whole(head_dim: int | None, bias: bool) -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3, head_dim, bias=bias), torch.randn(2, 6, 12)
    torch.testing.assert_close(attention(x, rows=slice(1, 4)), attention(x)[:, 1:4])


def test_gated_mlp_and_affine() -> None:
    torch.manual_seed(0)
    mlp, x = GEGLU(6, 10), torch.randn(3, 6)
    value, gate = mlp.fc1(x).split(10, -1)
    torch.testing.assert_close(mlp(x), mlp.fc2(value * F.gelu(gate)))
    affine = Affine(6)
    assert torch.equal(affine(x), x)
    nn.init.constant_(affine.gain, 2), nn.init.constant_(affine.bias, 1)
    assert torch.equal(affine(x), 2 * x + 1)


def test_stochastic_depth_drops_items_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    assert drop_path(x, 0.25, training=False) is x
    dropped = drop_path(x, 0.25, training=True)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    torch.testing.assert_close(dropped.mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    block = Block(6, 2, mlp=GEGLU(6, 12), bias=False, drop_path=0.5)
    y = torch.randn(2, 4, 6)
    assert torch.equal(block.eval()(y), block(y))
