"""The nearest-code search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.nearest import nearest_code


@settings(max_examples=60, deadline=None)
@given(
    vectors=st.integers(0, 40),
    codes=st.integers(1, 40),
    dim=st.integers(1, 9),
    block=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_equals_brute_force_for_any_block(vectors: int, codes: int, dim: int, block: int, seed: int) -> None:
    """Small integers make every score exact, so that ties are real and must go to the lowest index."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (vectors, dim), generator=generator).float()
    codebook = torch.randint(-2, 3, (codes, dim), generator=generator).float()
    found = nearest_code(x, codebook, block_elements=block)
    distances = (x[:, None] - codebook).square().sum(-1)
    assert found.dtype == torch.int64
    assert torch.equal(found, distances.argmin(1))


def test_keeps_leading_axes_and_ignores_gradients() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    codebook = torch.randn(7, 5, requires_grad=True)
    found = nearest_code(x, codebook)
    assert found.shape == (2, 3, 4) and not found.requires_grad


def test_holds_one_block_at_a_time() -> None:
    """The whole N x K matrix would be 64 MiB; no operation allocates more than a block of 1 MiB."""
    x, codebook = torch.randn(4096, 4), torch.randn(4096, 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        nearest_code(x, codebook)
    events = [event for event in profile.events() if event.name.startswith("aten::")]
    assert max(abs(event.self_cpu_memory_usage) for event in events) == 2**20


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_float32_products_do_not_reach_it(precision: str) -> None:
    x, codebook = torch.randn(512, 32), torch.randn(256, 32)
    expected = nearest_code(x.double(), codebook.double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        assert torch.equal(nearest_code(x, codebook), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_flips_no_code() -> None:
    x, codebook = torch.randn(2048, 16), torch.randn(1024, 16)
    expected = torch.cdist(x.double(), codebook.double()).argmin(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(x, codebook), expected)


def test_operator_is_well_formed() -> None:
    torch.library.opcheck(torch.ops.tokenizer_zoo.nearest_code, (torch.randn(5, 3), torch.randn(4, 3), 8))


def test_wrong_input_is_explained() -> None:
    with pytest.raises(ValueError, match="make the widths agree"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 6))
    with pytest.raises(ValueError, match="K > 0"):
        nearest_code(torch.randn(3, 4), torch.randn(0, 4))
    with pytest.raises(ValueError, match="block_elements must be at least 1"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 4), block_elements=0)
