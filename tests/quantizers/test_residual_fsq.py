"""ResidualFSQ: grids that refine each other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quantizers import Projected, ResidualFSQ

LEVELS = [8, 5, 3, 2]


def clamped(z: Tensor) -> Tensor:
    reach = 1 + 1 / (torch.tensor(LEVELS) - 1)
    return (z / reach).tanh() * reach


def test_every_level_shrinks_the_error_by_its_number_of_values() -> None:
    torch.manual_seed(0)
    quantizer = ResidualFSQ(LEVELS, 5).eval()
    z = torch.randn(4, 50, 4) * 2
    out = quantizer(z)
    values = torch.tensor(LEVELS)
    for count in range(1, 6):
        error = (quantizer.lookup(out.indices[..., :count]) - clamped(z)).abs().flatten(0, 1).amax(0)
        bound = 1 / (values - 1) / values.float() ** (count - 1)
        assert (error <= bound * (1 + 1e-4) + 1e-6).all()
        assert (error > 0.5 * bound).all(), "the bound is close"


def test_codes_are_those_of_one_fine_grid() -> None:
    """Two levels of L values are L * L values: all distinct, evenly spread."""
    quantizer = ResidualFSQ([3], 2).eval()
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))[None]
    values = quantizer.lookup(pairs).flatten().sort().values
    torch.testing.assert_close(values, torch.arange(-4, 5) / 3)


def test_codes_are_found_again() -> None:
    quantizer = ResidualFSQ([5, 4], 3).eval()
    indices = torch.randint(20, (2, 30, 3))
    codes = quantizer.lookup(indices)
    reach = 1 + 1 / (torch.tensor([5, 4]) - 1)
    inside = (codes.abs() < reach * 0.999).all(-1)
    again = quantizer(reach * (codes / reach).clamp(-0.999, 0.999).atanh())
    assert torch.equal(again.indices[inside], indices[inside]) and inside.float().mean() > 0.9


@pytest.mark.parametrize("gradient", ["once", "chained", "per_level"])
def test_gradient_is_that_of_the_soft_clamp(gradient: Any) -> None:
    quantizer = ResidualFSQ(LEVELS, 3, gradient=gradient).train()
    z = (0.1 * torch.randn(2, 9, 4)).requires_grad_()
    (found,) = torch.autograd.grad(quantizer(z).latents.sum(), z)
    (expected,) = torch.autograd.grad(clamped(z).sum(), z)
    if gradient == "per_level":
        assert (found / expected).round(decimals=3).unique().tolist()[-1] == 3
    else:
        torch.testing.assert_close(found, expected)


def test_nothing_to_learn_and_no_loss() -> None:
    quantizer = ResidualFSQ(LEVELS, 3)
    assert not quantizer.state_dict() and quantizer.codebook_sizes == (240,) * 3
    assert quantizer(torch.randn(1, 2, 4)).loss.item() == 0


def test_projected_around_the_whole_learns_both_maps() -> None:
    quantizer = Projected(ResidualFSQ([5, 5], 3, quantize_dropout=0.5), 6).train()
    out = quantizer(torch.randn(2, 9, 6))
    out.latents.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in quantizer.parameters())


@pytest.mark.parametrize(("levels", "count"), [([], 2), ([1, 5], 2), ([5, 5], 0)])
def test_wrong_sizes_are_explained(levels: list[int], count: int) -> None:
    with pytest.raises(ValueError, match=r"expects|got 0 quantizers"):
        ResidualFSQ(levels, count)
