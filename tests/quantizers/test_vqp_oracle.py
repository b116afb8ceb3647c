"""vector-quantize-pytorch as the oracle: equal weights give equal numbers, over several training steps.

Single steps of `SimVQ`, `RandomProjection` and `Product`, and encoding by `Residual`, are compared beside their tests.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch as library
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as library_kmeans
from vector_quantize_pytorch.vector_quantize_pytorch import orthogonal_loss_fn

from quantizers import BSQ, FSQ, LFQ, VQ, Quantizer, Residual, ResidualFSQ
from quantizers.codebook import kmeans

dims, codes, tokens, seeds = st.integers(2, 12), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**31)
few = settings(max_examples=12, deadline=None)


def close(name: str, actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest magnitude, as in the golden cases."""
    assert actual.shape == expected.shape, name
    error, bound = (actual - expected).abs().max().item(), tolerance * expected.abs().max().item() + 3e-7
    assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


def step(ours: Quantizer, theirs: nn.Module, z: Tensor, *, times: float = 1.0, tolerance: float = 1e-5) -> None:
    """One training forward and backward of both; our loss is `times` theirs in value, and equal in gradient."""
    upstream = torch.randn_like(z)
    one, two = z.clone().requires_grad_(), z.clone().requires_grad_()
    out, found = ours.train()(one), theirs.train()(two)
    assert torch.equal(out.indices, found[1].long().view_as(out.indices))
    close("latents", out.latents, found[0])
    loss = found[2].sum() if len(found) > 2 else torch.zeros(())
    close("loss", out.loss, times * loss)
    ((out.latents * upstream).sum() + out.loss).backward()
    ((found[0] * upstream).sum() + loss).backward()
    close("gradient", one.grad, two.grad, tolerance)


def check_eval(ours: Quantizer, theirs: nn.Module, z: Tensor) -> None:
    out, found = ours.eval()(z), theirs.eval()(z)
    assert torch.equal(out.indices, found[1].long().view_as(out.indices))
    close("eval latents", out.latents, found[0])


def copy_codebook(ours: VQ, theirs: Any) -> None:
    book = theirs._codebook
    state = {"codebook": book.embed, "cluster_size": book.cluster_size, "cluster_sum": book.embed_avg}
    ours.load_state_dict({name: state[name][0].detach().clone() for name in ours.state_dict()}, strict=True)


def check_codebook(ours: VQ, theirs: Any) -> None:
    book = theirs._codebook
    for name, expected in (("codebook", "embed"), ("cluster_size", "cluster_size"), ("cluster_sum", "embed_avg")):
        if name in ours.state_dict():
            close(name, ours.state_dict()[name], getattr(book, expected)[0])


def spread(*shape: int) -> Tensor:
    """Vectors of lengths from 0.5 to 2, whose ratios stay below the bound of our rotation trick."""
    return F.normalize(torch.randn(*shape), dim=-1) * (0.5 + 1.5 * torch.rand(*shape[:-1], 1))


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
@few
@given(dim=dims, size=codes, count=tokens, decay=st.sampled_from([0.5, 0.8, 0.99]), seed=seeds)
def test_vq_with_moving_averages(
    cosine: bool, rotation: bool, dim: int, size: int, count: int, decay: float, seed: int
) -> None:
    torch.manual_seed(seed)
    options = {"use_cosine_sim": cosine, "rotation_trick": rotation, "decay": decay, "commitment_weight": 0.7}
    theirs = library.VectorQuantize(dim, size, **options)
    if not cosine:
        theirs._codebook.embed.copy_(spread(1, size, dim))
        theirs._codebook.embed_avg.copy_(theirs._codebook.embed)
    estimator = "rotation" if rotation else "straight_through"
    ours = VQ(dim, size, normalize=cosine, learn="ema", decay=decay, commitment=0.7, estimator=estimator)
    copy_codebook(ours, theirs)
    for _ in range(4):
        z = spread(2, count, dim)
        check_eval(ours, theirs, z)
        step(ours, theirs, z)
        check_codebook(ours, theirs)


@pytest.mark.parametrize("rotation", [False, True])
@few
@given(dim=dims, size=codes, count=tokens, seed=seeds)
def test_vq_with_a_learned_codebook(rotation: bool, dim: int, size: int, count: int, seed: int) -> None:
    """One undetached error of weight w is our two terms of weight w each: same gradients, twice the value."""
    torch.manual_seed(seed)
    learned = {"learnable_codebook": True, "ema_update": False}
    theirs = library.VectorQuantize(dim, size, rotation_trick=rotation, commitment_weight=0.3, **learned)
    estimator = "rotation" if rotation else "straight_through"
    ours = VQ(dim, size, commitment=0.3, codebook_loss=0.3, estimator=estimator)
    with torch.no_grad():
        theirs._codebook.embed.copy_(spread(1, size, dim))
    copy_codebook(ours, theirs)
    optimizers = [torch.optim.SGD(module.parameters(), 0.5) for module in (ours, theirs)]
    for _ in range(4):
        z = spread(2, count, dim)
        check_eval(ours, theirs, z)
        for optimizer in optimizers:
            optimizer.zero_grad()
        step(ours, theirs, z, times=2.0)
        for optimizer in optimizers:
            optimizer.step()
        check_codebook(ours, theirs)


@few
@given(dim=dims, size=st.integers(2, 40), seed=seeds)
def test_orthogonality(dim: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    ours = VQ(dim, size, orthogonality=1.0, commitment=0.0, codebook_loss=0.0)
    expected = orthogonal_loss_fn(ours.codebook[None])
    (slope,) = torch.autograd.grad(expected, ours.codebook)
    out = ours.train()(torch.randn(1, 3, dim))
    close("value", out.parts["orthogonality"], expected)
    (found,) = torch.autograd.grad(out.loss, ours.codebook)
    close("gradient", found, slope)


@pytest.mark.parametrize("cosine", [False, True])
@few
@given(dim=dims, size=codes, count=st.integers(1, 80), seed=seeds)
def test_kmeans_from_the_same_start(cosine: bool, dim: int, size: int, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, start = torch.randn(count, dim), torch.randn(size, dim)
    if cosine:
        x, start = F.normalize(x, dim=-1), F.normalize(start, dim=-1)
    expected, bins = library_kmeans(x[None], size, 5, cosine, sample_fn=lambda samples, num: start[None])
    means, counts = kmeans(x, start, 5, normalize=cosine)
    close("means", means, expected[0])
    assert torch.equal(counts.long(), bins[0])


@pytest.mark.parametrize("levels_of", [2, 4])
@pytest.mark.parametrize("cosine", [False, True])
@few
@given(dim=dims, size=codes, count=tokens, seed=seeds)
def test_residual_with_its_gradient_per_level(
    cosine: bool, levels_of: int, dim: int, size: int, count: int, seed: int
) -> None:
    """The library's gradient, multiplied by the number of levels, is `gradient="per_level"`."""
    torch.manual_seed(seed)
    options = {"use_cosine_sim": cosine, "rotation_trick": False, "decay": 0.7, "commitment_weight": 0.7}
    theirs = library.ResidualVQ(dim=dim, codebook_size=size, num_quantizers=levels_of, **options)
    level = VQ(dim, size, normalize=cosine, learn="ema", decay=0.7, commitment=0.7)
    ours = Residual(level, levels_of, gradient="per_level", reduce="sum")
    for one, two in zip(ours.levels, theirs.layers, strict=True):
        copy_codebook(one, two)
    for _ in range(3):
        z = torch.randn(2, count, dim)
        check_eval(ours, theirs, z)
        step(ours, theirs, z)
        for one, two in zip(ours.levels, theirs.layers, strict=True):
            check_codebook(one, two)


@pytest.mark.parametrize("symmetric", [False, True])
@few
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=5), count=tokens, seed=seeds)
def test_fsq(symmetric: bool, levels: list[int], count: int, seed: int) -> None:
    torch.manual_seed(seed)
    levels = levels if symmetric else [max(level, 3) for level in levels]
    theirs, ours = library.FSQ(levels, preserve_symmetry=symmetric), FSQ(levels, symmetric=symmetric)
    z = torch.randn(2, count, len(levels)) * 2
    check_eval(ours, theirs, z)
    step(ours, theirs, z)


@few
@given(levels=st.lists(st.integers(2, 7), min_size=1, max_size=4), count=tokens, depth=st.integers(1, 3), seed=seeds)
def test_residual_fsq(levels: list[int], count: int, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = library.ResidualFSQ(levels=levels, num_quantizers=depth)
    ours = ResidualFSQ(levels, depth, gradient="per_level")
    z = torch.randn(2, count, len(levels)) * 2
    check_eval(ours, theirs, z)
    step(ours, theirs, z)


@pytest.mark.parametrize("spherical", [False, True])
@few
@given(bits=st.integers(1, 7), books=st.integers(1, 3), count=tokens, scale=st.sampled_from([0.01, 0.1, 1]), seed=seeds)
def test_lfq(spherical: bool, bits: int, books: int, count: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = library.LFQ(
        codebook_size=2**bits,
        num_codebooks=books,
        spherical=spherical,
        entropy_loss_weight=0.3,
        diversity_gamma=1.5,
        commitment_loss_weight=0.2,
    )
    options: dict[str, Any] = {
        "num_codebooks": books,
        "entropy": 0.3,
        "diversity": 1.5,
        "temperature": 0.01,
        "first_bit": "most",
        "entropy_floor": "clamp",
        "reference_bugs": True,
    }
    ours = BSQ(bits, commitment=0.2 / bits, **options) if spherical else LFQ(bits, commitment=0.2, **options)
    z = torch.randn(2, count, bits * books) * scale
    check_eval(ours, theirs, z)
    step(ours, theirs, z, tolerance=1e-4)  # the temperature of 0.01 makes roundings 400 times larger
    terms = theirs.train()(z, return_loss_breakdown=True)[1]
    parts = ours.train()(z).parts
    close("per-sample entropy", parts["per_sample_entropy"], terms.per_sample_entropy)
    close("batch entropy", parts["batch_entropy"], terms.batch_entropy)
