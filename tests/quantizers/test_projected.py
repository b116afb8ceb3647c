"""Projected: maps of their own around any quantizer."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

from quantizers import FSQ, VQ, Projected


@pytest.mark.parametrize("normed", [False, True])
def test_formula(normed: bool) -> None:
    torch.manual_seed(0)
    inner = FSQ([5, 5, 5])
    quantizer = Projected(inner, 6, weight_norm=normed).eval()
    z = torch.randn(2, 7, 6)
    out = quantizer(z)
    expected = inner(quantizer.project_in(z))
    assert torch.equal(out.latents, quantizer.project_out(expected.latents))
    assert torch.equal(out.indices, expected.indices)


def test_weight_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Projected(VQ(4, 8), 6, weight_norm=True).project_in
    theirs = weight_norm(torch.nn.Linear(6, 4))
    with torch.no_grad():
        ours.weight_g.mul_(torch.tensor([[0.5], [1], [2], [3]]))
        theirs.bias.copy_(ours.bias)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
    x = torch.randn(5, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    upstream = torch.randn(5, 4)
    ours(x).backward(upstream)
    theirs(x).backward(upstream)
    torch.testing.assert_close(ours.weight_g.grad, theirs.parametrizations.weight.original0.grad)
    torch.testing.assert_close(ours.weight_v.grad, theirs.parametrizations.weight.original1.grad)


def test_weight_norm_starts_as_a_linear_layer_and_can_be_reset_and_pickled() -> None:
    torch.manual_seed(0)
    layer = Projected(VQ(4, 8), 400, weight_norm=True).project_in
    weight = layer.weight_v
    torch.testing.assert_close(layer.weight_g, weight.norm(dim=1, keepdim=True))
    assert weight.abs().max() <= 1 / 20 and weight.std() > 0.9 * (1 / 20) / 3**0.5
    before = copy.deepcopy(layer)
    layer.reset_parameters()
    assert not torch.equal(before.weight_v, weight) and not torch.equal(before.bias, layer.bias)
    x = torch.randn(2, 400)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


@pytest.mark.parametrize("normed", [False, True])
def test_no_bias(normed: bool) -> None:
    quantizer = Projected(VQ(4, 8), 6, bias=False, weight_norm=normed)
    assert not any("bias" in name for name in quantizer.state_dict())
    assert quantizer.train()(torch.zeros(1, 2, 6)).latents.shape == (1, 2, 6)


def test_without_an_estimate_the_output_trains_the_way_out_alone() -> None:
    quantizer = Projected(VQ(4, 8), 6).train()
    quantizer.estimator = "none"
    assert quantizer.quantizer.estimator == "none"
    z = torch.randn(1, 9, 6, requires_grad=True)
    out = quantizer(z)
    out.latents.sum().backward(retain_graph=True)
    assert z.grad is None and quantizer.project_in.weight.grad is None
    assert quantizer.project_out.weight.grad.any()
    out.loss.backward()
    assert z.grad.any() and quantizer.project_in.weight.grad.any()


def test_losses_are_those_of_the_inner_space() -> None:
    quantizer = Projected(VQ(4, 8), 6).train()
    z = torch.randn(1, 9, 6)
    codes = F.embedding(quantizer(z).indices[..., 0], quantizer.quantizer.codebook)
    expected = (codes - quantizer.project_in(z)).square().mean()
    torch.testing.assert_close(quantizer(z).parts["commitment"], expected)


def test_wrong_width_is_explained() -> None:
    with pytest.raises(ValueError, match="dim >= 1, got 0"):
        Projected(VQ(4, 8), 0)
