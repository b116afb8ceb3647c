"""LFQ: bits, their order, and the terms of its loss."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import LFQ
from quantizers.entropy import binary_entropies


def test_zero_is_one_unless_the_reference_is_asked_for() -> None:
    z = torch.tensor([[[0.0, -0.0, 1e-30, -1e-30]]])
    for reference_bugs, signs, index in ((False, [1, 1, 1, -1], 7), (True, [-1, -1, 1, -1], 4)):
        out = LFQ(4, reference_bugs=reference_bugs).eval()(z)
        assert out.latents.flatten().tolist() == signs
        assert out.indices.item() == index


def test_bit_order() -> None:
    z = torch.tensor([[[1.0, -1.0, -1.0]]])
    assert LFQ(3, first_bit="least")(z).indices.item() == 1
    assert LFQ(3, first_bit="most")(z).indices.item() == 4


@pytest.mark.parametrize("first_bit", ["least", "most"])
@pytest.mark.parametrize(("bits", "num_codebooks"), [(1, 1), (18, 1), (36, 1), (60, 1), (62, 1), (36, 2), (60, 3)])
def test_indices_are_exact_at_any_width(bits: int, num_codebooks: int, first_bit: Any) -> None:
    """A sum in float32 is wrong for nearly every token at 36 bits."""
    quantizer = LFQ(bits, num_codebooks=num_codebooks, first_bit=first_bit).eval()
    z = torch.randn(4, 50, bits * num_codebooks, generator=torch.Generator().manual_seed(0))
    out = quantizer(z)
    ones = (z > 0).unflatten(-1, (num_codebooks, bits)).flatten(0, 2).tolist()
    digits = [row[::-1] if first_bit == "least" else row for row in ones]
    assert out.indices.flatten().tolist() == [int("".join("01"[bit] for bit in row), 2) for row in digits]
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    top = torch.full((1, 1, num_codebooks), 2**bits - 1)
    assert torch.equal(quantizer.lookup(top), torch.ones(1, 1, bits * num_codebooks))


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(1, 62),
    num_codebooks=st.integers(1, 3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**32),
)
def test_any_floating_dtype(bits: int, num_codebooks: int, dtype: torch.dtype, seed: int) -> None:
    quantizer = LFQ(bits, num_codebooks=num_codebooks).eval()
    z = torch.randn(2, 5, bits * num_codebooks, generator=torch.Generator().manual_seed(seed)).to(dtype)
    out, expected = quantizer(z), quantizer(z.float())
    assert out.latents.dtype == torch.float32
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.latents, z.sign().float())
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


@pytest.mark.parametrize("pool_groups", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_loss(pool_groups: bool, masked: bool) -> None:
    options: dict[str, Any] = {"commitment": 0.3, "entropy": 0.7, "confidence": 1.1, "diversity": 0.6}
    quantizer = LFQ(4, num_codebooks=3, temperature=0.5, pool_groups=pool_groups, **options).train()
    z = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0)) * 0.3
    mask = torch.arange(9) < torch.tensor([[7], [4]]) if masked else torch.ones(2, 9, dtype=torch.bool)
    out = quantizer(z, mask if masked else None)

    real = z[mask].unflatten(-1, (3, 4)).double()
    signs = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).double() * 2 - 1
    p = (2 * real @ signs.T / 0.5).softmax(-1)
    average = p.mean((0, 1))[None] if pool_groups else p.mean(0)
    expected = {
        "commitment": (real - real.sign()).square().mean(),
        "per_sample_entropy": torch.special.entr(p).sum(-1).mean(),
        "batch_entropy": torch.special.entr(average).sum(-1).mean(),
    }
    assert out.parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(out.parts[name], value.float())
    gain = 1.1 * expected["per_sample_entropy"] - 0.6 * expected["batch_entropy"]
    torch.testing.assert_close(out.loss, (0.3 * expected["commitment"] + 0.7 * gain).float())


def test_pooling_one_codebook_changes_nothing() -> None:
    z = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LFQ(5)(z).loss, LFQ(5, pool_groups=True)(z).loss)


def test_pooled_groups_share_their_codes() -> None:
    """Groups that each use one code, all different, are even together and collapsed apart."""
    z = torch.tensor([[1.0, 1, -1, 1, 1, -1, -1, -1]]).expand(1, 6, 8)
    apart, pooled = (LFQ(2, num_codebooks=4, pool_groups=pool)(z).parts["batch_entropy"] for pool in (False, True))
    torch.testing.assert_close(apart, torch.tensor(0.0))
    torch.testing.assert_close(pooled, torch.tensor(math.log(4)))


def test_wide_codes_use_the_stated_bound() -> None:
    z = torch.randn(1, 30, 40, generator=torch.Generator().manual_seed(0)) * 0.01
    found = LFQ(40, entropy_bits=10)(z).parts["batch_entropy"]
    torch.testing.assert_close(found, binary_entropies(z[0, :, None] * 400, 10).batch)
    assert found <= 40 * math.log(2)


def test_eighteen_bits_of_many_tokens_train() -> None:
    """The joint tensor of 2048 tokens would take 2 GiB."""
    quantizer = LFQ(18).train()
    z = (torch.randn(2, 1024, 18, generator=torch.Generator().manual_seed(0)) * 0.1).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad.any()
    assert 7 < out.parts["batch_entropy"] <= 18 * math.log(2) + 1e-3


def test_entropy_is_skipped_in_eval_and_at_weight_zero() -> None:
    z = torch.randn(1, 4, 6)
    assert set(LFQ(6).eval()(z).parts) == {"commitment"}
    assert set(LFQ(6, entropy=0).train()(z).parts) == {"commitment"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 0},
        {"bits": 63},
        {"num_codebooks": 0},
        {"first_bit": "last"},
        {"entropy_floor": "subtract"},
        {"temperature": 0},
        {"entropy_bits": 0},
    ],
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LFQ expects"):
        LFQ(**{"bits": 4, **arguments})
