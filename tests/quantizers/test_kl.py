"""KL: the Gaussian bottleneck."""

import pytest
import torch

from quantizers import KL


def test_eval_returns_the_mean() -> None:
    z = torch.randn(2, 5, 8)
    out = KL(4).eval()(z)
    assert torch.equal(out.latents, z[..., :4])
    assert out.indices.shape == (2, 5, 0) and KL(4).codebook_sizes == ()


def test_kl_matches_torch_distributions() -> None:
    z = torch.randn(3, 5, 8)
    quantizer = KL(4, weight=0.5).eval()
    out = quantizer(z)
    posterior = torch.distributions.Normal(z[..., :4], (z[..., 4:] / 2).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    per_token = torch.distributions.kl_divergence(posterior, standard).sum(-1)
    torch.testing.assert_close(quantizer.divergence(*quantizer.posterior(z)), per_token)
    torch.testing.assert_close(out.parts["kl"], per_token.sum() / 3)
    torch.testing.assert_close(out.loss, 0.5 * out.parts["kl"])


def test_training_samples_with_the_given_generator() -> None:
    z = torch.randn(2, 5, 8)
    quantizer = KL(4).train()
    first, second = (quantizer(z, generator=torch.Generator().manual_seed(7)).latents for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, quantizer(z).latents)
    noise = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(first, z[..., :4] + (0.5 * z[..., 4:]).exp() * noise)


def test_samples_have_the_posterior_moments() -> None:
    z = torch.cat((torch.full((1, 20000, 1), 3.0), torch.full((1, 20000, 1), 2 * 0.6931)), dim=-1)
    sample = KL(1).train()(z).latents
    assert abs(sample.mean() - 3) < 0.1 and abs(sample.std() - 2) < 0.1


def test_logvar_is_clamped() -> None:
    z = torch.tensor([[[0.0, 0.0, 1000.0, -1000.0]]])
    _, logvar = KL(2).posterior(z)
    assert logvar.flatten().tolist() == [20, -30]
    assert KL(2)(z).loss.isfinite()


def test_lookup_and_options_are_explained() -> None:
    with pytest.raises(ValueError, match="no codebook"):
        KL(4).lookup(torch.zeros(1, 2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="dim >= 1"):
        KL(0)
