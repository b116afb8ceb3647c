"""Gumbel: sampled codes while training, the likeliest in eval."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import quantizers.soft
from quantizers import Gumbel


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_matches_the_plain_form(hard: bool, temperature: float) -> None:
    """taming-transformers' GumbelQuantize, written out, under the same random numbers."""
    torch.manual_seed(0)
    quantizer = Gumbel(5, 30, input_dim=6, temperature=temperature, hard=hard, kl=0.1).train()
    z, g = torch.randn(2, 8, 6), torch.randn(2, 8, 5)
    one, two = z.clone().requires_grad_(), z.clone().requires_grad_()
    weights = [p.detach().clone().requires_grad_() for p in quantizer.parameters()]
    named = dict(zip([name for name, _ in quantizer.named_parameters()], weights, strict=True))
    torch.manual_seed(1)
    out = quantizer(one)
    logits = F.linear(two, named["project.weight"], named["project.bias"])
    torch.manual_seed(1)
    sample = F.gumbel_softmax(logits.flatten(0, 1), tau=temperature, hard=hard).view_as(logits)
    latents = sample @ named["codebook"]
    p = logits.softmax(-1)
    kl = (p * (p * 30).log()).sum(-1).mean()
    assert torch.equal(out.indices[..., 0], sample.argmax(-1))
    torch.testing.assert_close(out.latents, latents)
    torch.testing.assert_close(out.parts["kl"], kl)
    torch.testing.assert_close(out.loss, 0.1 * kl)
    ((out.latents * g).sum() + out.loss).backward()
    ((latents * g).sum() + 0.1 * kl).backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    for name, parameter in quantizer.named_parameters():
        torch.testing.assert_close(parameter.grad, named[name].grad, rtol=1e-4, atol=1e-6)


def test_blocks_redraw_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient taken through other noise than the forward value's would not match its finite difference."""
    monkeypatch.setattr(quantizers.soft, "_BLOCK", 64)
    torch.manual_seed(0)
    quantizer = Gumbel(3, 20, hard=False, kl=0.0).train()
    z, direction = torch.randn(1, 12, 3), torch.randn(1, 12, 3)

    def value(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return quantizer(x).latents.square().sum()

    moved = z.clone().requires_grad_()
    total = value(moved)
    torch.manual_seed(6)
    (gradient,) = torch.autograd.grad(total, moved)
    step = 1e-2
    with torch.no_grad():
        slope = (value(z + step * direction) - value(z - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-2, atol=2e-2)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 9), dim=st.integers(1, 6), codes=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_eval_takes_the_likeliest_code(tokens: int, dim: int, codes: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = Gumbel(2, codes, input_dim=dim).eval()
    z = torch.randn(1, tokens, dim)
    out = quantizer(z)
    logits = z.double() @ quantizer.project.weight.double().T + quantizer.project.bias.double()
    chosen = logits.gather(-1, out.indices)[..., 0]
    torch.testing.assert_close(chosen, logits.amax(-1), rtol=0, atol=1e-5)
    assert torch.equal(quantizer(z).indices, out.indices)  # no noise
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_samples_follow_the_logits() -> None:
    torch.manual_seed(0)
    quantizer = Gumbel(2, 3, input_dim=1).train()
    with torch.no_grad():
        quantizer.project.weight.zero_()
        quantizer.project.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
        counts = torch.bincount(quantizer(torch.zeros(1, 20000, 1)).indices.flatten(), minlength=3)
    torch.testing.assert_close(counts / 20000, torch.tensor([0.2, 0.3, 0.5]), rtol=0, atol=0.02)


def test_divergence_from_uniform() -> None:
    quantizer = Gumbel(2, 8, input_dim=8).train()
    with torch.no_grad():
        quantizer.project.weight.copy_(torch.eye(8) * 100)
        quantizer.project.bias.zero_()
    sure, flat = torch.eye(8)[None], torch.zeros(1, 8, 8)
    torch.testing.assert_close(quantizer(sure).parts["kl"], torch.tensor(math.log(8)))
    torch.testing.assert_close(quantizer(flat).parts["kl"], torch.tensor(0.0), rtol=0, atol=1e-6)
    mask = torch.tensor([[True] * 4 + [False] * 4])
    assert quantizer(torch.cat((flat[:, :4], sure[:, :4]), 1), mask).parts["kl"].abs() < 1e-6


def test_temperature_is_scheduled() -> None:
    quantizer = Gumbel(2, 16, hard=False).train()
    z = torch.randn(1, 64, 2)
    quantizer.temperature = 1e-3
    cold = quantizer(z)
    torch.testing.assert_close(cold.latents, quantizer.lookup(cold.indices), rtol=0.1, atol=0.1)
    quantizer.temperature = 1e4
    torch.testing.assert_close(quantizer(z).latents, quantizer.codebook.mean(0).expand(1, 64, 2), rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="temperature > 0, got 0"):
        quantizer.temperature = 0


@pytest.mark.parametrize(
    "arguments", [{"dim": 0}, {"codebook_size": 0}, {"input_dim": 0}, {"temperature": -1.0}, {"estimator": "ste"}]
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Gumbel expects"):
        Gumbel(**{"dim": 4, "codebook_size": 8, **arguments})


def test_rotation_is_refused() -> None:
    with pytest.raises(ValueError, match="Gumbel has its own gradient"):
        Gumbel(4, 8, estimator="rotation")  # type: ignore[arg-type]


def test_without_estimate_latents_train_its_own_parameters_alone() -> None:
    quantizer = Gumbel(4, 8, estimator="none").train()
    z = torch.randn(1, 6, 4, requires_grad=True)
    out = quantizer(z)
    found = torch.autograd.grad(out.latents.sum(), (z, *quantizer.parameters()), retain_graph=True, allow_unused=True)
    assert found[0] is None and all(gradient is not None for gradient in found[1:])
    assert torch.autograd.grad(out.loss, z)[0].any()
