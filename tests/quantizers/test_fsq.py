"""FSQ: levels, codes and their order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import FSQ

levels_lists = st.lists(st.integers(2, 9), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(levels=levels_lists, symmetric=st.booleans())
def test_every_index_is_a_distinct_reachable_code(levels: list[int], symmetric: bool) -> None:
    quantizer = FSQ(levels, symmetric=symmetric).eval()
    size = math.prod(levels)
    indices = torch.arange(min(size, 2000))[None, :, None]
    codes = quantizer.lookup(indices)
    assert codes.abs().max() <= 1
    assert len(codes[0].unique(dim=0)) == indices.numel()
    if symmetric:  # code = 2 digit / (L - 1) - 1 and digit = floor((L - 1)(tanh z + 1) / 2 + 1/2)
        z = codes.clamp(-0.9999, 0.9999).atanh()
    else:  # invert the bound at the code
        count = torch.tensor(levels)
        half, offset = (count - 1) * 1.001 / 2, (count % 2 == 0) * 0.5
        z = ((codes * (count // 2) + offset) / half).clamp(-0.9999, 0.9999).atanh() - (offset / half).atanh()
    assert torch.equal(quantizer(z).indices, indices)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9])
def test_codes_of_one_channel(count: int, symmetric: bool) -> None:
    codes = FSQ([count], symmetric=symmetric).lookup(torch.arange(count)[None, :, None])[0, :, 0]
    if symmetric:
        torch.testing.assert_close(codes, torch.linspace(-1, 1, count))
        torch.testing.assert_close(codes, -codes.flip(0))
    else:
        assert torch.equal(codes, (torch.arange(count) - count // 2) / (count // 2))


def test_first_channel_is_the_fastest() -> None:
    codes = FSQ([3, 4]).lookup(torch.tensor([[[0], [1], [3]]]))[0]
    assert codes[0].tolist() == [-1, -1]
    assert codes[1].tolist() == [0, -1]
    assert codes[2].tolist() == [-1, -0.5]


@settings(max_examples=30, deadline=None)
@given(levels=levels_lists, seed=st.integers(0, 2**32))
def test_index_grows_with_each_channel(levels: list[int], seed: int) -> None:
    quantizer = FSQ(levels)
    z = torch.randn(1, 20, len(levels), generator=torch.Generator().manual_seed(seed))
    assert (quantizer(z + 0.3).indices >= quantizer(z).indices).all()


def test_extremes_stay_in_range() -> None:
    quantizer = FSQ([8, 5, 2])
    z = torch.tensor([-3e38, -1e30, 1e30, 3e38])[None, :, None].expand(1, 4, 3)
    assert quantizer(z).indices.flatten().tolist() == [0, 0, 79, 79]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("count", [1001, 1002, 5001, 5002, 2**20])
def test_many_levels_stay_in_range(count: int, symmetric: bool) -> None:
    """A margin in proportion to the levels would round the ends of more than 1001 to a level that is not there."""
    quantizer = FSQ([count, 2], symmetric=symmetric).eval()
    z = torch.tensor([[[-50.0, -50.0], [50.0, 50.0]]])
    out = quantizer(z)
    assert out.indices.flatten().tolist() == [0, 2 * count - 1]
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


@settings(max_examples=40, deadline=None)
@given(
    levels=st.lists(st.integers(2, 300), min_size=1, max_size=7),
    symmetric=st.booleans(),
    rows=st.integers(0, 40),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**32),
)
def test_indices_are_exact_below_and_above_float32(
    levels: list[int], symmetric: bool, rows: int, dtype: torch.dtype, seed: int
) -> None:
    """Products of levels on both sides of 2^24, against Python's integers."""
    quantizer = FSQ(levels, symmetric=symmetric).eval()
    z = (torch.randn(1, rows, len(levels), generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)
    out = quantizer(z)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    count = torch.tensor(levels, dtype=torch.float64)
    steps = (out.latents + 1) * (count - 1) / 2 if symmetric else out.latents * (count // 2) + count // 2
    expected = []
    for digits in steps.round().long()[0].tolist():
        index = 0
        for digit, level in zip(reversed(digits), reversed(levels), strict=True):
            assert 0 <= digit < level
            index = index * level + digit
        expected.append(index)
    assert out.indices.flatten().tolist() == expected


@pytest.mark.parametrize("levels", [[8, 8, 8, 5, 5, 5], [1000, 1000, 1000]])
def test_index_is_exact_under_autocast(levels: list[int]) -> None:
    quantizer = FSQ(levels).eval()
    z = torch.randn(4, 64, len(levels), generator=torch.Generator().manual_seed(0))
    expected = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
    assert torch.equal(out.indices, expected.indices)
    assert torch.equal(out.latents.view(torch.int32), quantizer.lookup(out.indices).view(torch.int32))  # -0 is not 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_is_that_of_the_bound(symmetric: bool) -> None:
    levels = torch.tensor([8, 5, 4])
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (FSQ(levels.tolist(), symmetric=symmetric).train()(z).latents * weights).sum().backward()
    inner = z.detach().requires_grad_()
    if symmetric:
        bounded = inner.tanh()
    else:
        half, offset = (levels - 1) * 1.001 / 2, (levels % 2 == 0) * 0.5
        bounded = (half * (inner + (offset / half).atanh()).tanh() - offset) / (levels // 2)
    (bounded * weights).sum().backward()
    assert z.grad is not None and inner.grad is not None
    torch.testing.assert_close(z.grad, inner.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", [[], [1, 4], [8, 0], [2**20 + 1], [2**16] * 4])
def test_wrong_levels_are_explained(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="FSQ expects"):
        FSQ(levels)


def test_margin_moves_where_the_outer_levels_begin() -> None:
    """CosyVoice 2 rounds 0.999 tanh(z), FSQ as published 1.001 tanh(z)."""
    z = torch.tensor([[[0.5]]]).atanh()
    assert FSQ([3], margin=-1e-3)(z).indices.item() == 1 and FSQ([3])(z).indices.item() == 2
    assert FSQ([3], margin=-1e-3)(z + 1e-2).indices.item() == 2
    for levels, margin in (([3], -0.5), ([2, 8], 0.0), ([8], -1 / 7), ([3], 1.0)):
        with pytest.raises(ValueError, match="margin above"):
            FSQ(levels, margin=margin)
