"""The range coder gives back what it packed, and is as long as its model says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.metrics import adaptive_bits, huffman_bits, range_decode, range_encode
from zoo.metrics.coder import cheapest_increment


def skewed(count: int, size: int, seed: int = 0) -> Tensor:
    """Codes of which the small ones are frequent."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (uniform**4 * size).long()


@given(
    size=st.sampled_from([1, 2, 3, 16, 1000, 64_000]),
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    books=st.integers(1, 3),
    increment=st.sampled_from([1, 32, 1000]),
)
def test_round_trip(size: int, seed: int, count: int, books: int, increment: int) -> None:
    symbols = skewed(count, size, seed).tolist()
    contexts = [place % books for place in range(count)]
    data = range_encode(symbols, size, contexts, increment=increment)
    assert range_decode(data, size, contexts=contexts, increment=increment) == symbols


@given(symbols=st.lists(st.integers(0, 4), max_size=400))
def test_round_trip_of_any_symbols(symbols: list[int]) -> None:
    assert range_decode(range_encode(symbols, 5), 5, len(symbols)) == symbols


@pytest.mark.parametrize("symbol", [0, 254, 255])
def test_round_trip_of_long_runs_with_carries(symbol: int) -> None:
    symbols = [255, 0, *[symbol] * 5000, 1, 255, *[255, 254] * 500]
    data = range_encode(symbols, 256)
    assert range_decode(data, 256, len(symbols)) == symbols


@pytest.mark.parametrize("size", [2, 300, 64_000])
@pytest.mark.parametrize("books", [1, 4])
def test_length_is_that_of_the_model(size: int, books: int) -> None:
    symbols = skewed(30_000, size)
    contexts = torch.arange(len(symbols)) % books
    pairs, counts = torch.stack([contexts, symbols], 1).unique(dim=0, return_counts=True)
    ideal = float(adaptive_bits(counts, size, pairs[:, 0]))
    real = 8 * len(range_encode(symbols.tolist(), size, contexts.tolist()))
    assert ideal - 1 <= real <= ideal * 1.001 + 24


def test_closed_form_equals_the_sum_of_each_step() -> None:
    size, increment, symbols = 7, 32, skewed(500, 7).tolist()
    seen, bits = [1.0] * size, 0.0
    for symbol in symbols:
        bits -= math.log2(seen[symbol] / sum(seen))
        seen[symbol] += increment
    counts = torch.bincount(torch.tensor(symbols), minlength=size)
    assert float(adaptive_bits(counts, size, increment=increment)) == pytest.approx(bits, rel=1e-10)
    assert float(adaptive_bits(counts[counts > 0], size)) == pytest.approx(bits, rel=1e-10)
    assert float(adaptive_bits(torch.zeros(0, dtype=torch.int64), size)) == 0


def test_increment_suits_the_codes() -> None:
    """Where all codes are equally frequent slow learning is best, where few of many are used quick learning."""
    even, _ = cheapest_increment(torch.full((16,), 100), 16)
    few, bits = cheapest_increment(torch.full((16,), 100), 64_000)
    assert even == 1 and few >= 64
    assert float(bits) == float(adaptive_bits(torch.full((16,), 100), 64_000, increment=few)) + 3


def test_huffman_of_a_known_code() -> None:
    """Five symbols with code words of 1, 2, 3, 4 and 4 bits."""
    assert float(huffman_bits(torch.tensor([16, 8, 4, 2, 2]))) == 16 + 2 * 8 + 3 * 4 + 4 * 4
    assert float(huffman_bits(torch.tensor([0, 9, 0]))) == 9 and float(huffman_bits(torch.tensor([0]))) == 0


@given(counts=st.lists(st.integers(1, 1000), min_size=2, max_size=60))
def test_huffman_lies_within_a_bit_of_the_entropy(counts: list[int]) -> None:
    share = np.array(counts) / sum(counts)
    entropy = -(share * np.log2(share)).sum() * sum(counts)
    assert entropy - 1e-6 <= float(huffman_bits(torch.tensor(counts))) < entropy + sum(counts)


def test_huffman_reduction_of_known_distributions() -> None:
    """Of 4096 codes, equally frequent ones save nothing, and Zipf's law about a quarter."""
    uniform = torch.full((4096,), 1000)
    assert 1 - float(huffman_bits(uniform)) / (12 * int(uniform.sum())) == 0
    zipf = (1e9 / torch.arange(1, 4097, dtype=torch.float64)).long()
    assert 1 - float(huffman_bits(zipf)) / (12 * int(zipf.sum())) == pytest.approx(0.27, abs=0.03)


def test_wrong_input_is_explained() -> None:
    with pytest.raises(ValueError, match=r"symbols in \[0, 4\), got 1 to 4"):
        range_encode([1, 4], 4)
    with pytest.raises(ValueError, match="a context for each of 2 symbols, got 1"):
        range_encode([1, 2], 4, [0])
    with pytest.raises(ValueError, match="does not say where it ends"):
        range_decode(b"", 4)
    with pytest.raises(ValueError, match="increment of at least 1"):
        range_encode([0], 4, increment=0)
