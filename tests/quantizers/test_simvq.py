"""SimVQ: a frozen codebook behind one linear map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_quantize_pytorch import SimVQ as Reference

from quantizers import Residual, SimVQ


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(0, 9),
    dim=st.integers(1, 9),
    codes=st.integers(1, 40),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_nearest_projected_code_and_exact_lookup(tokens: int, dim: int, codes: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = SimVQ(dim, codes, width).eval()
    z = torch.randn(2, tokens, dim)
    out = quantizer(z)
    distances = torch.cdist(z.double(), (quantizer.codebook.double() @ quantizer.transform.double().T)[None])
    chosen = distances.gather(-1, out.indices)[..., 0]
    torch.testing.assert_close(chosen, distances.amin(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_lookup_applies_the_projection() -> None:
    """The method's own code decodes indices to the frozen vectors."""
    quantizer = SimVQ(4, 30).eval()
    indices = torch.arange(30)[None, :, None]
    decoded = quantizer.lookup(indices)[0]
    torch.testing.assert_close(decoded, quantizer.codebook @ quantizer.transform.T)
    assert (decoded - quantizer.codebook).abs().max() > 0.1


@pytest.mark.parametrize("estimator", ["rotation", "straight_through"])
def test_matches_vector_quantize_pytorch(estimator: str) -> None:
    torch.manual_seed(0)
    reference = Reference(dim=12, codebook_size=64, frozen_codebook_dim=7, rotation_trick=estimator == "rotation")
    quantizer = SimVQ(12, 64, 7, estimator=estimator)
    quantizer.load_state_dict({"codebook": reference.frozen_codebook, "transform": reference.code_transform.weight})
    z, g = torch.randn(3, 20, 12), torch.randn(3, 20, 12)
    one, two = z.clone().requires_grad_(), z.clone().requires_grad_()
    latents, indices, loss = reference(one)
    out = quantizer(two)
    assert torch.equal(out.indices[..., 0], indices)
    torch.testing.assert_close(out.latents, latents, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.loss, loss)
    ((latents * g).sum() + loss).backward()
    ((out.latents * g).sum() + out.loss).backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(quantizer.transform.grad, reference.code_transform.weight.grad, rtol=1e-4, atol=1e-6)


def test_only_the_map_learns() -> None:
    quantizer = SimVQ(4, 30)
    assert [name for name, _ in quantizer.named_parameters()] == ["transform"]
    assert "codebook" in quantizer.state_dict()
    before = quantizer.codes.detach().clone()
    optimizer = torch.optim.SGD(quantizer.parameters(), 0.1)
    quantizer(torch.randn(1, 1, 4)).loss.backward()
    optimizer.step()
    assert ((quantizer.codes - before).abs().amax(1) > 0).all()  # one latent moves every code


def test_never_holds_all_distances() -> None:
    """8,192 x 4,096 distances would be 128 MiB."""
    quantizer, z = SimVQ(8, 4096).eval(), torch.randn(8, 1024, 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        quantizer(z)
    events = [event for event in profile.events() if event.name.startswith("aten::")]
    assert max(abs(event.self_cpu_memory_usage) for event in events) <= 2**23


def test_levels_of_a_residual_do_not_multiply_the_gradient() -> None:
    """vector-quantize-pytorch multiplies it by the number of levels, SimVQ included."""
    quantizer = Residual(SimVQ(4, 30), 4).train()
    z = torch.randn(1, 6, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z).latents.sum(), z)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    transforms = [level.transform for level in quantizer.levels]
    assert not torch.equal(transforms[0], transforms[1])


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (4, 4, 0)])
def test_wrong_sizes_are_explained(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="SimVQ expects dim, codebook_size and codebook_dim"):
        SimVQ(*sizes)
