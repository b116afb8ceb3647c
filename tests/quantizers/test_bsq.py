"""BSQ: corners of the sphere, their order, and the terms of its loss."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import BSQ, LFQ


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(1, 8), num_codebooks=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_each_latent_gets_its_nearest_unit_code(bits: int, num_codebooks: int, seed: int) -> None:
    quantizer = BSQ(bits, num_codebooks=num_codebooks).eval()
    z = latents(2, 6, bits * num_codebooks, seed=seed)
    out = quantizer(z)
    codes = BSQ(bits).lookup(torch.arange(2**bits)[None, :, None])[0]
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(2**bits))
    scores = F.normalize(z.unflatten(-1, (num_codebooks, bits)), dim=-1) @ codes.T
    assert torch.equal(out.indices, scores.argmax(-1))
    assert torch.equal(out.latents.unflatten(-1, (num_codebooks, bits)), codes[out.indices])


def test_first_channel_is_most_significant() -> None:
    z = torch.tensor([[[1.0, -1.0, -1.0]]])
    assert BSQ(3)(z).indices.item() == 4
    assert BSQ(3, first_bit="least")(z).indices.item() == 1


def test_zero_is_positive_unless_the_reference_is_asked_for() -> None:
    z = torch.zeros(1, 1, 4)
    assert BSQ(4)(z).latents.flatten().tolist() == [0.5] * 4
    assert BSQ(4, reference_bugs=True)(z).latents.flatten().tolist() == [-0.5] * 4


@pytest.mark.parametrize(("bits", "num_codebooks"), [(36, 1), (60, 1), (36, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_indices_are_exact_at_any_width(bits: int, num_codebooks: int, dtype: torch.dtype) -> None:
    """Sums in float32 are wrong for 99.8 % of tokens at 36 bits, sums in bf16 already at 18."""
    quantizer = BSQ(bits, num_codebooks=num_codebooks).eval()
    z = latents(2, 100, bits * num_codebooks).to(dtype)
    out = quantizer(z)
    rows = (z > 0).unflatten(-1, (num_codebooks, bits)).flatten(0, 2).tolist()
    assert out.indices.flatten().tolist() == [int("".join("01"[bit] for bit in row), 2) for row in rows]
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_length_of_the_latent_does_not_matter() -> None:
    z = latents(2, 9, 12)
    one, two = (BSQ(6, num_codebooks=2, commitment=1.0)(scaled) for scaled in (z, 1000 * z))
    assert torch.equal(one.indices, two.indices)
    torch.testing.assert_close(one.loss, two.loss)


@pytest.mark.parametrize("entropy_bits", [1, 4, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_loss(entropy_bits: int, masked: bool) -> None:
    beta, gamma0, gamma, zeta, sharpness = 0.3, 1.2, 0.8, 0.5, 10.0
    quantizer = BSQ(
        8,
        commitment=beta,
        entropy=zeta / sharpness,
        confidence=gamma0,
        diversity=gamma,
        temperature=1 / sharpness,
        entropy_bits=entropy_bits,
    ).train()
    z = latents(2, 9, 8)
    mask = torch.arange(9) < torch.tensor([[7], [4]]) if masked else torch.ones(2, 9, dtype=torch.bool)
    out = quantizer(z, mask if masked else None)

    real = F.normalize(z[mask].double(), dim=-1)
    signs = ((torch.arange(2**entropy_bits)[:, None] >> torch.arange(entropy_bits)) & 1).double() * 2 - 1
    p = (2 * real.unflatten(-1, (-1, entropy_bits)) @ signs.T / math.sqrt(8) * sharpness).softmax(-1)
    commitment = (real - real.sign() / math.sqrt(8)).square().sum(-1).mean()
    per_sample, batch = torch.special.entr(p).sum((1, 2)).mean(), torch.special.entr(p.mean(0)).sum()
    torch.testing.assert_close(out.parts["commitment"], commitment.float())
    torch.testing.assert_close(out.parts["per_sample_entropy"], per_sample.float())
    torch.testing.assert_close(out.parts["batch_entropy"], batch.float())
    expected = beta * commitment + zeta * (gamma0 * per_sample - gamma * batch) / sharpness
    torch.testing.assert_close(out.loss, expected.float())


def test_gradient_of_the_estimate() -> None:
    """Unit gradients through the codes, or BSQ-ViT's 1 / sqrt(bits) of them."""
    for scaled, factor in ((False, 1.0), (True, 0.5)):
        z = F.normalize(latents(1, 5, 4), dim=-1).requires_grad_()
        quantizer = BSQ(4, normalize=False, scaled_gradient=scaled).train()
        out = quantizer(z)
        assert torch.equal(out.latents, quantizer.lookup(out.indices))
        (gradient,) = torch.autograd.grad(out.latents.sum(), z)
        torch.testing.assert_close(gradient, torch.full((1, 5, 4), factor))


def test_normalized_latents_move_along_the_sphere() -> None:
    z = latents(1, 5, 4).requires_grad_()
    out = BSQ(4, commitment=1.0).train()(z)
    (gradient,) = torch.autograd.grad(out.latents.square().sum() + out.loss, z)
    torch.testing.assert_close((gradient * z).sum(-1), torch.zeros(1, 5), rtol=0, atol=1e-5)


def test_bits_are_those_of_lfq() -> None:
    z = latents(2, 9, 12)
    assert torch.equal(BSQ(12)(z).indices, LFQ(12, first_bit="most")(z).indices)


@pytest.mark.parametrize("arguments", [{"bits": 0}, {"bits": 63}, {"num_codebooks": 0}, {"temperature": 0}])
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="BSQ expects"):
        BSQ(**{"bits": 4, **arguments})
