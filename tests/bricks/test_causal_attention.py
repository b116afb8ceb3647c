"""The causal transformer gives the same numbers in one call and in chunks, and sees what it says it sees."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from encoders.layers.causal_attention import CausalAttention, CausalTransformer, windows
from encoders.layers.rotary import rotary_table, rotate, rotate_halves
from encoders.layers.streaming import Stream

WIDTH, HEADS = 16, 2


def transformer(context: int, depth: int = 2, rotary: str = "pairs") -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(WIDTH, depth, HEADS, 24, context, layer_scale=0.7, rotary=rotary).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("rotary", ["pairs", "halves"])
@pytest.mark.parametrize(("count", "context"), [(5, 8), (8, 8), (9, 8), (40, 8), (7, 1)])
def test_attention_is_that_of_a_full_mask(count: int, context: int, rotary: str) -> None:
    torch.manual_seed(0)
    attention = CausalAttention(WIDTH, HEADS, rotary)  # type: ignore[arg-type]
    x = torch.randn(2, count, WIDTH)
    table = rotary_table(torch.arange(count)[:, None], WIDTH // HEADS)
    age = torch.arange(count)[:, None] - torch.arange(count)
    q, k, v = rearrange(attention.qkv(x), "b l (three h d) -> three b h l d", three=3, h=HEADS)
    turn = rotate if rotary == "pairs" else rotate_halves
    seen = F.scaled_dot_product_attention(turn(q, table), turn(k, table), v, (age >= 0) & (age < context))
    expected = attention.proj(rearrange(seen, "b h l d -> b l (h d)"))
    torch.testing.assert_close(attention(x, table, windows(count, 0, context), context), expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_any_split_gives_what_one_call_gives(chunks: list[int], context: int) -> None:
    model = transformer(context)
    x = torch.randn(2, sum(chunks), WIDTH, generator=torch.Generator().manual_seed(1))
    stream = Stream()
    with torch.no_grad():
        parts = [model(part, stream) for part in x.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(x), rtol=1e-5, atol=1e-5)


def test_reach_is_exact() -> None:
    model = transformer(context=4, depth=3)
    x = torch.randn(1, 30, WIDTH, requires_grad=True)
    row: Tensor = model(x)[0, 20].square().sum()
    (gradient,) = torch.autograd.grad(row, x)
    touched = gradient[0].abs().sum(-1).nonzero()[:, 0]
    assert model.reach == 9
    assert (touched.min().item(), touched.max().item()) == (20 - model.reach, 20)


def test_place_does_not_matter_far_into_a_stream() -> None:
    q, k = torch.randn(2, 6, 8)
    near, far = (rotary_table(torch.arange(place, place + 6)[:, None], 8) for place in (0, 10_000_000))
    scores = [rotate(q, table) @ rotate(k, table).T for table in (near, far)]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)


def test_layouts_differ_by_the_order_of_channels() -> None:
    x, table = torch.randn(3, 5, 8), rotary_table(torch.arange(5)[:, None], 8)
    by_halves = rotate_halves(rearrange(x, "... (i two) -> ... (two i)", two=2), table)
    torch.testing.assert_close(rearrange(by_halves, "... (two i) -> ... (i two)", two=2), rotate(x, table))


def test_compiles_as_one_graph() -> None:
    model, x = transformer(context=4), torch.randn(2, 11, WIDTH)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(compiled, model(x), rtol=1e-5, atol=1e-6)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="even width"):
        CausalAttention(6, 2)
    with pytest.raises(ValueError, match="rotary is"):
        CausalAttention(8, 2, "thirds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context"):
        CausalTransformer(8, 1, 2, 8, context=0)
