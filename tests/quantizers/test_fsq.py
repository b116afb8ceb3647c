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
    z = torch.tensor([-torch.inf, -1e30, 1e30, torch.inf])[None, :, None].expand(1, 4, 3)
    assert quantizer(z).indices.flatten().tolist() == [0, 0, 79, 79]


@pytest.mark.parametrize("levels", [[], [1, 4], [8, 0], [2**32, 2**32]])
def test_wrong_levels_are_explained(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="FSQ expects"):
        FSQ(levels)
