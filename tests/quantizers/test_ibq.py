"""IBQ: gradients through the choice of codes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import quantizers.entropy
import quantizers.nearest
import quantizers.soft
from quantizers import IBQ, Projected, Residual


def plain(z: Tensor, codebook: Tensor, cosine: bool) -> tuple[Tensor, Tensor]:
    """Latents and indices by the N x K one-hot."""
    x, codes = (F.normalize(v, dim=-1) if cosine else v for v in (z, codebook))
    soft = (x @ codes.T).softmax(-1)
    indices = soft.argmax(-1)
    onehot = F.one_hot(indices, len(codebook)) - soft.detach() + soft
    return onehot @ codebook, indices


@pytest.mark.parametrize("block", [1, 64, 2**24])
@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_gradients_match_the_plain_form(metric: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizers.soft, "_BLOCK", block)
    torch.manual_seed(0)
    quantizer = IBQ(5, 30, metric=metric, entropy=0.0).train()
    torch.nn.init.normal_(quantizer.codebook)
    z, g = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    one, two = z.clone().requires_grad_(), z.clone().requires_grad_()
    out = quantizer(one)
    codebook = quantizer.codebook.detach().clone().requires_grad_()
    latents, indices = plain(two, codebook, metric == "cosine")
    assert torch.equal(out.indices[..., 0], indices)
    torch.testing.assert_close(out.latents, latents)
    hard = codebook[indices]
    loss = (latents - two).square().mean() + (hard.detach() - two).square().mean()
    loss = loss + 0.25 * (hard - two.detach()).square().mean()
    torch.testing.assert_close(out.loss, loss)
    ((out.latents * g).sum() + out.loss).backward()
    ((latents * g).sum() + loss).backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(quantizer.codebook.grad, codebook.grad, rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 9), dim=st.integers(1, 6), codes=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_chooses_the_largest_inner_product(tokens: int, dim: int, codes: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = IBQ(dim, codes).eval()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.randint(-3, 4, (codes, dim)))
    z = torch.randint(-3, 4, (1, tokens, dim)).float()  # integers: scores are exact, ties are real
    out = quantizer(z)
    assert torch.equal(out.indices[..., 0], (z @ quantizer.codebook.T).argmax(-1))
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_every_code_receives_gradient() -> None:
    quantizer = IBQ(4, 50, entropy=0.0).train()
    quantizer(torch.randn(1, 2, 4)).latents.square().sum().backward()
    assert (quantizer.codebook.grad.abs().amax(1) > 0).all()


def test_without_estimate_the_choice_trains_codes_alone() -> None:
    quantizer = IBQ(4, 50, entropy=0.0, estimator="none").train()
    z = torch.randn(1, 3, 4, requires_grad=True)
    out = quantizer(z)
    by_latents = torch.autograd.grad(out.latents.sum(), (z, quantizer.codebook), retain_graph=True, allow_unused=True)
    assert by_latents[0] is None and (by_latents[1].abs().amax(1) > 0).all()
    assert torch.autograd.grad(out.loss, z)[0].any()


def test_levels_of_a_residual_do_not_multiply_the_gradient() -> None:
    quantizer = Residual(IBQ(4, 30), 3).train()
    z = torch.randn(1, 6, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z).latents.sum(), z)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


def test_gradient_memory_is_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 x 1,024 probabilities would be 1 MiB, and the graph would keep several."""
    for module in (quantizers.soft, quantizers.entropy, quantizers.nearest):
        for name in ("_BLOCK", "_CPU_BLOCK"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 2**14)
    quantizer, z = IBQ(4, 1024, entropy=0.1).train(), torch.randn(1, 256, 4, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        quantizer(z).loss.backward()
    events = [event for event in profile.events() if event.name.startswith("aten::")]
    assert max(abs(event.self_cpu_memory_usage) for event in events) <= 2**16


def test_entropy_rewards_confidence_and_spread() -> None:
    quantizer = IBQ(8, 8, entropy=1.0).train()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.eye(8))
    even = quantizer(torch.eye(8)[None]).parts
    torch.testing.assert_close(even["per_sample_entropy"], torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(even["batch_entropy"], torch.tensor(8.0).log(), rtol=1e-3, atol=0)
    assert "batch_entropy" not in quantizer.eval()(torch.eye(8)[None]).parts


@pytest.mark.parametrize(
    "arguments", [{"dim": 0}, {"codebook_size": 0}, {"metric": "l2"}, {"entropy_temperature": 0}, {"estimator": "ste"}]
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="IBQ expects"):
        IBQ(**{"dim": 4, "codebook_size": 8, **arguments})


def test_rotation_is_refused() -> None:
    with pytest.raises(ValueError, match="IBQ has its own gradient"):
        IBQ(4, 8, estimator="rotation")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="IBQ has its own gradient"):
        Projected(IBQ(4, 8), 6).estimator = "rotation"
