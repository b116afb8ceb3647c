"""Straight-through and rotation-trick gradients."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantizers.estimators import rotation_trick, straight_through

Estimator = Callable[[Tensor, Tensor], Tensor]


def gradient(z: Tensor, codes: Tensor, upstream: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(rotation_trick(z, codes), z, upstream)
    return found


@pytest.mark.parametrize("estimator", [straight_through, rotation_trick])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), z_scale=st.floats(1e-9, 1e6), code_scale=st.floats(1e-9, 1e6))
def test_forward_value_is_bit_equal_to_the_code(
    estimator: Estimator, seed: int, z_scale: float, code_scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(64, 8, generator=generator) * z_scale
    codes = torch.randn(64, 8, generator=generator) * code_scale
    assert torch.equal(estimator(z, codes), codes)
    assert torch.equal(estimator(z.bfloat16(), codes.bfloat16()), codes.bfloat16())


def test_straight_through_passes_the_gradient_on() -> None:
    z, codes = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    upstream = torch.randn(5, 3)
    straight_through(z, codes).backward(upstream)
    assert z.grad is not None and torch.equal(z.grad, upstream)
    assert codes.grad is not None and torch.equal(codes.grad, upstream)  # what the codes' own parameters receive


def test_rotation_carries_latents_onto_codes() -> None:
    """The linear map whose transpose is the gradient sends z to its code and preserves angles (arXiv 2410.06424)."""
    z, codes = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    transposed = torch.stack([gradient(z, codes, row) for row in torch.eye(6, dtype=torch.float64)])
    torch.testing.assert_close(transposed @ z, codes)
    scale = codes.norm() / z.norm()
    torch.testing.assert_close(transposed @ transposed.T, torch.eye(6, dtype=torch.float64) * scale**2)


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-6, 1e-3])
def test_rotation_scale_is_bounded_near_zero(length: float) -> None:
    z = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1) * length
    codes = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1)
    upstream = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1)
    found = gradient(z, codes, upstream)
    assert found.isfinite().all()
    assert found.norm(dim=-1).max() <= 10 * 3 + 1e-3  # |R| <= 3 where z has no direction, 1 elsewhere
    assert torch.equal(rotation_trick(z, codes), codes)


@pytest.mark.parametrize("tilt", [0.0, 1e-8, 1e-6, 1e-4, 1e-2])
def test_rotation_is_stable_for_antiparallel_vectors(tilt: float) -> None:
    z = torch.nn.functional.normalize(torch.randn(32, 8), dim=-1)
    codes = -z + tilt * torch.randn(32, 8)
    upstream = torch.randn(32, 8)
    found = gradient(z, codes, upstream)
    assert torch.equal(rotation_trick(z, codes), codes)
    ratio = found.norm(dim=-1) / upstream.norm(dim=-1) / codes.norm(dim=-1)
    torch.testing.assert_close(ratio, torch.ones(32), rtol=1e-2, atol=0)
