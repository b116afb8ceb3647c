"""LFQ: bits, their order, and exact entropies."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from quantizers import LFQ
from quantizers.entropy import binary_entropies, softmax_entropies


def joint(logits: Tensor) -> Tensor:
    """All 2^G pattern probabilities the plain way."""
    patterns = ((torch.arange(2 ** logits.shape[1])[:, None] >> torch.arange(logits.shape[1])) & 1).double() * 2 - 1
    return (logits.double() / 2 @ patterns.T).softmax(-1)


def test_zero_is_minus_one() -> None:
    out = LFQ(3).eval()(torch.tensor([[[0.0, -0.0, 1e-30]]]))
    assert out.latents.flatten().tolist() == [-1, -1, 1]
    assert out.indices.item() == 4


def test_bit_order() -> None:
    z = torch.tensor([[[1.0, -1.0, -1.0]]])
    assert LFQ(3, first_bit="least")(z).indices.item() == 1
    assert LFQ(3, first_bit="most")(z).indices.item() == 4


@pytest.mark.parametrize("bits", [1, 18, 36, 62])
def test_indices_are_exact_at_any_width(bits: int) -> None:
    """A sum in float32 is wrong for nearly every token at 36 bits."""
    quantizer = LFQ(bits).eval()
    out = quantizer(torch.randn(4, 50, bits))
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    top = torch.full((1, 1, 1), 2**bits - 1)
    assert torch.equal(quantizer.lookup(top), torch.ones(1, 1, bits))


def test_spherical_codes_are_unit_vectors() -> None:
    quantizer = LFQ(5, num_codebooks=2, spherical=True).eval()
    codes = quantizer(torch.randn(2, 9, 10)).latents.unflatten(-1, (2, 5))
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(2, 9, 2))


@pytest.mark.parametrize("bits", [1, 2, 5, 9, 12])
def test_entropies_are_exact_without_the_joint_tensor(bits: int) -> None:
    logits = torch.randn(40, bits) * 3
    p = joint(logits)
    found = binary_entropies(logits, group_bits=12)
    per_sample = torch.special.entr(p).sum(1).mean()
    average = p.mean(0)
    batch = -(average * (average + 1e-5).log()).sum()
    torch.testing.assert_close(found.per_sample.double(), per_sample, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.batch.double(), batch, rtol=1e-5, atol=1e-6)


def test_grouped_batch_entropy_is_an_upper_bound() -> None:
    torch.manual_seed(0)
    logits = torch.randn(200, 1).expand(200, 12) * 20 + torch.randn(200, 12)  # correlated bits
    exact, halves, single = (binary_entropies(logits, group_bits=bits) for bits in (12, 6, 1))
    assert exact.batch < halves.batch < single.batch <= 12 * math.log(2) + 1e-3
    torch.testing.assert_close(exact.per_sample, single.per_sample)


def test_entropy_gradients_match_autograd_of_the_plain_form() -> None:
    logits = torch.randn(30, 6, dtype=torch.float32, requires_grad=True)
    found = binary_entropies(logits, group_bits=6)
    (gradient,) = torch.autograd.grad(found.per_sample - found.batch, logits)
    p = joint(logits)
    average = p.mean(0)
    plain = torch.special.entr(p).sum(1).mean() + (average * (average + 1e-5).log()).sum()
    (expected,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_saturated_bits_have_finite_gradients() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [300.0, 0.0, -300.0]], requires_grad=True)
    for floor in ("add", "clamp"):
        found = binary_entropies(logits, 3, floor)
        (gradient,) = torch.autograd.grad(found.per_sample - found.batch, logits)
        assert gradient.isfinite().all()


def test_eighteen_bits_of_many_tokens_train() -> None:
    """The joint tensor of 2048 tokens would take 2 GiB."""
    quantizer = LFQ(18).train()
    z = (torch.randn(2, 1024, 18) * 0.1).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert 0 < out.parts["batch_entropy"] <= 18 * math.log(2) + 1e-3


def test_entropy_is_skipped_in_eval_and_at_weight_zero() -> None:
    z = torch.randn(1, 4, 6)
    assert set(LFQ(6).eval()(z).parts) == {"commitment"}
    assert set(LFQ(6, entropy=0).train()(z).parts) == {"commitment"}


def test_softmax_entropies_reward_confidence_and_spread() -> None:
    sharp = softmax_entropies(torch.eye(8) * 50)
    flat = softmax_entropies(torch.zeros(8, 8))
    torch.testing.assert_close(sharp.per_sample, torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(flat.per_sample, torch.tensor(8.0).log())
    torch.testing.assert_close(sharp.batch, torch.tensor(8.0).log(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "arguments", [{"bits": 0}, {"bits": 63}, {"num_codebooks": 0}, {"first_bit": "last"}, {"temperature": 0}]
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LFQ expects"):
        LFQ(**{"bits": 4, **arguments})
