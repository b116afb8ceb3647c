"""VVQ: a Gaussian in front of the scales."""

from __future__ import annotations

import pytest
import torch

from quantizers import FSQ, KL, VVQ, MultiScaleVQ


def test_evaluation_quantizes_the_mean_as_multiscale_does() -> None:
    quantizer = VVQ(FSQ([5, 5, 5]), (1, 3, 7), phis=0).eval()
    plain = MultiScaleVQ(FSQ([5, 5, 5]), (1, 3, 7), ndim=1, phis=0).eval()
    mean = torch.randn(2, 7, 3)
    found = quantizer(torch.cat([mean, torch.randn(2, 7, 3)], -1))
    assert quantizer.input_dim == 6 and quantizer.dim == 3 and quantizer.scales == (1, 3, 7)
    assert torch.equal(found.indices, plain(mean).indices)
    assert torch.equal(quantizer.lookup(found.indices), found.latents)
    assert torch.equal(quantizer.lookup(found.indices[:, :4]), plain.lookup(found.indices[:, :4]))


def test_training_draws_and_pays_for_it() -> None:
    quantizer = VVQ(FSQ([5, 5, 5]), (1, 7), phis=0, weight=0.5, deviation=0.1)
    z = torch.zeros(2, 7, 6)
    found = quantizer(z, generator=torch.Generator().manual_seed(0))
    shifted = torch.cat([z[..., :3], z[..., 3:] + 2 * torch.tensor(0.1).log()], -1)
    draw = KL(3, weight=0.5)(shifted, generator=torch.Generator().manual_seed(0))
    assert 0.05 < draw.latents.std() < 0.2
    torch.testing.assert_close(found.parts["kl"], draw.parts["kl"])
    assert found.loss >= 0.5 * draw.parts["kl"]


def test_standardized_means_cannot_shrink() -> None:
    torch.manual_seed(0)
    quantizer = VVQ(FSQ([8, 8, 8]), (1, 7), phis=0, standardize=0.1, deviation=0.01)
    constant = torch.randn(7, 6) * 5  # the same for every input: takes no codes
    for _ in range(60):
        quantizer(constant + 1e-2 * torch.randn(16, 7, 6))
    quantizer.eval()
    z = constant + 1e-2 * torch.randn(64, 7, 6)
    assert quantizer.standard is not None
    moved = quantizer.standard(z[..., :3])
    assert 0.7 < moved.std() < 1.3 and moved.mean().abs() < 0.2
    assert quantizer(z).indices.unique().numel() > 100


@pytest.mark.parametrize("given", [{"deviation": 0.0}, {"standardize": 2.0}])
def test_options_are_checked(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="deviation above 0 and standardize in"):
        VVQ(FSQ([5, 5, 5]), (1, 7), **given)
