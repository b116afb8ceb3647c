"""The nearest-code search."""

from typing import Any

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
    """The whole N x K matrix would be 128 MiB; no operation allocates more than a block of 4 MiB."""
    x, codebook = torch.randn(4096, 4), torch.randn(8192, 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        nearest_code(x, codebook)
    events = [event for event in profile.events() if event.name.startswith("aten::")]
    assert max(abs(event.self_cpu_memory_usage) for event in events) == 2**22


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@settings(max_examples=20)
@given(
    codes=st.integers(1, 6000),
    dim=st.sampled_from([1, 3, 8, 64]),
    block=st.sampled_from([7, 1000, None]),
    seed=st.integers(0, 2**32),
)
def test_low_precision_with_rescoring_finds_the_same_codes(
    precision: Any, codes: int, dim: int, block: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, codebook = torch.randn(64, dim, generator=generator), torch.randn(codes, dim, generator=generator)
    if dim == 1:  # thousands of codes on a line are closer than bf16 can tell apart
        codebook = codebook[:200]
    expected = nearest_code(x, codebook)
    assert torch.equal(nearest_code(x, codebook, precision=precision, block_elements=block), expected)


def test_offsets_choose_the_criterion() -> None:
    x, codebook = torch.randn(200, 5), torch.randn(90, 5) * torch.rand(90, 1)
    assert torch.equal(nearest_code(x, codebook, offsets=torch.zeros(90)), (x @ codebook.T).argmax(1))
    assert not torch.equal(nearest_code(x, codebook, offsets=torch.zeros(90)), nearest_code(x, codebook))


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
    operands = (torch.randn(5, 3), torch.randn(4, 3), torch.randn(4), "float32", 8)
    torch.library.opcheck(torch.ops.tokenizer_zoo.nearest_code, operands)


def test_wrong_input_is_explained() -> None:
    with pytest.raises(ValueError, match="make the widths agree"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 6))
    with pytest.raises(ValueError, match="K > 0"):
        nearest_code(torch.randn(3, 4), torch.randn(0, 4))
    with pytest.raises(ValueError, match="precision 'float32'"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 4), precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"offsets \(5,\), one a code"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 4), offsets=torch.randn(4))
    with pytest.raises(ValueError, match="block_elements must be at least 1"):
        nearest_code(torch.randn(3, 4), torch.randn(5, 4), block_elements=0)
