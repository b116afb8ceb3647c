"""DimensionWise: continuous latents to the bins of a Gaussian."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import KL, DimensionWise


@settings(max_examples=30, deadline=None)
@given(
    bits=st.integers(1, 8),
    dim=st.integers(1, 5),
    tokens=st.integers(0, 9),
    low=st.floats(-8, -0.5),
    high=st.floats(0.5, 8),
    scale=st.floats(0.01, 20),
    seed=st.integers(0, 2**32),
)
def test_nearest_value_of_each_channel(
    bits: int, dim: int, tokens: int, low: float, high: float, scale: float, seed: int
) -> None:
    quantizer = DimensionWise(dim, bits, low=low, high=high).eval()
    z = torch.randn(2, tokens, dim, generator=torch.Generator().manual_seed(seed)) * scale
    out = quantizer(z)
    assert quantizer.codebook_sizes == (2**bits,) * dim
    gaps = (z[..., None].double() - quantizer.codebook.double()).abs()
    torch.testing.assert_close(gaps.gather(-1, out.indices[..., None])[..., 0], gaps.amin(-1), rtol=0, atol=1e-6)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    assert torch.equal(quantizer(out.latents).indices, out.indices)
    assert out.loss == 0 and not out.parts


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_codes_are_means_of_equally_likely_bins(bits: int) -> None:
    """Against sums over a fine grid of a normal density cut at three standard deviations."""
    quantizer = DimensionWise(1, bits, low=-3.0, high=3.0)
    ends, centroids = quantizer.boundaries, quantizer.centroids
    assert ends[0] == -3 and ends[-1] == 3
    x = torch.linspace(-3, 3, 400_001, dtype=torch.float64)
    density = (-x.square() / 2).exp()
    bins = torch.bucketize(x, ends[1:-1])
    mass = torch.zeros(2**bits, dtype=torch.float64).index_add_(0, bins, density)
    means = torch.zeros(2**bits, dtype=torch.float64).index_add_(0, bins, density * x) / mass
    torch.testing.assert_close(centroids, means, rtol=0, atol=1e-4)
    torch.testing.assert_close(quantizer.codebook, centroids.float())
    if bits > 1:
        inner = mass[1:-1] / mass[1:-1].mean()
        torch.testing.assert_close(inner, torch.ones_like(inner), rtol=0, atol=2e-2)


def test_range_may_lie_off_zero() -> None:
    quantizer = DimensionWise(1, 5, low=2.0, high=10.0).eval()
    torch.testing.assert_close(quantizer.codebook.mean(), torch.tensor(6.0))
    beyond = quantizer(torch.tensor([[[-1e3], [2.0], [1e3]]]))
    assert beyond.indices.flatten().tolist() == [0, 0, 31]


def test_quantizes_continuous_latents() -> None:
    """More bits, less error; beyond what the tail bins leave, the error vanishes."""
    torch.manual_seed(0)
    latents = KL(8).eval()(torch.cat((torch.randn(2, 64, 8), torch.zeros(2, 64, 8)), -1)).latents
    errors = []
    for bits in (2, 4, 6, 8):
        quantizer = DimensionWise(8, bits).eval()
        errors.append((quantizer(latents).latents - latents).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-2


@pytest.mark.parametrize("bits", [12, 16])
def test_many_bits_stay_distinct(bits: int) -> None:
    codebook = DimensionWise(1, bits, span=5.0).codebook
    assert codebook.isfinite().all() and (codebook.diff() > 0).all()


@pytest.mark.parametrize(
    "arguments",
    [{"dim": 0}, {"bits": 0}, {"bits": 17}, {"low": 1.0, "high": 1.0}, {"span": 0.5}, {"bits": 10, "span": 3.0}],
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"DimensionWise (expects|of)"):
        DimensionWise(**{"dim": 4, **arguments})
