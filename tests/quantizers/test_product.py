"""Product: quantizers side by side."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from vector_quantize_pytorch import GroupedResidualVQ, VectorQuantize

from quantizers import FSQ, VQ, Product, Projected, Residual, SimVQ


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), min_size=1, max_size=4),
    tokens=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_groups_are_independent(sizes: list[tuple[int, int]], tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    members = [VQ(dim, codes) for dim, codes in sizes]
    product = Product(members, reduce="sum").eval()
    z = torch.randn(2, tokens, sum(dim for dim, _ in sizes))
    out = product(z)
    alone = [member(part) for member, part in zip(members, z.split([dim for dim, _ in sizes], -1), strict=True)]
    assert product.codebook_sizes == tuple(codes for _, codes in sizes)
    assert torch.equal(out.latents, torch.cat([each.latents for each in alone], -1))
    assert torch.equal(out.indices, torch.cat([each.indices for each in alone], -1))
    torch.testing.assert_close(out.loss, torch.stack([each.loss for each in alone]).sum())
    torch.testing.assert_close(Product(members).eval()(z).loss, torch.stack([each.loss for each in alone]).mean())
    assert torch.equal(product.lookup(out.indices), out.latents)


def test_copies_start_anew() -> None:
    """Whatever lies inside: a frozen codebook, its map, and weights of norm and direction."""
    members = Product(Projected(SimVQ(3, 10), 5, weight_norm=True), 3).quantizers
    for name, first in members[0].state_dict().items():
        others = [member.state_dict()[name] for member in list(members)[1:]]
        assert all(not torch.equal(first, other) for other in others), name
        assert not torch.equal(*others), name


@pytest.mark.parametrize("learn", ["gradient", "ema"])
def test_one_codebook_for_all_groups(learn: Any) -> None:
    """The groups are further positions of one quantizer: one step of its averages, with all vectors."""
    torch.manual_seed(0)
    inner, alone = VQ(3, 20, learn=learn), VQ(3, 20, learn=learn)
    alone.load_state_dict(inner.state_dict())
    product = Product(inner, 4, shared=True).train()
    z = torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    out = product(z, mask)
    expected = alone(z.reshape(2, 20, 3), mask.repeat_interleave(4, dim=1))
    assert product.codebook_sizes == (20,) * 4 and len(product.quantizers) == 1
    assert torch.equal(out.indices, expected.indices.reshape(2, 5, 4))
    assert torch.equal(out.latents, expected.latents.reshape(2, 5, 12))
    torch.testing.assert_close(out.loss, expected.loss)
    for name, tensor in inner.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name])
    torch.testing.assert_close(Product(inner, 4, shared=True, reduce="sum").eval()(z).loss, product.eval()(z).loss * 4)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("estimator", ["straight_through", "none"])
def test_disentanglement_moves_latents_only(groups: int, estimator: str) -> None:
    torch.manual_seed(0)
    product = Product(VQ(4, 30, normalize=True), groups, disentanglement=0.5)
    product.estimator = estimator
    z = torch.randn(2, 6, 4 * groups, requires_grad=True)
    out = product.train()(z)
    unit = [F.normalize(part, dim=-1) for part in out.latents.detach().chunk(groups, -1)]
    pairs = [(unit[a] * unit[b]).sum(-1).square().mean() for a in range(groups) for b in range(a)]
    part = out.parts["disentanglement"]
    torch.testing.assert_close(part, torch.stack(pairs).mean())
    by_z, *by_codes = torch.autograd.grad(part, (z, *product.parameters()), allow_unused=True, retain_graph=True)
    assert by_z.abs().sum() > 0 and all(gradient is None for gradient in by_codes)
    rest = Product(list(product.quantizers)).train()(z).loss
    torch.testing.assert_close(out.loss, rest + 0.5 * part)


def test_descent_turns_groups_away_from_each_other() -> None:
    torch.manual_seed(0)
    product = Product(VQ(4, 64, normalize=True), 2, disentanglement=1.0).train()
    for member in product.quantizers:
        nn.init.normal_(member.codebook)
    z = torch.randn(1, 32, 8, requires_grad=True)
    optimizer = torch.optim.SGD([z], 2.0)
    first = product(z).parts["disentanglement"].item()
    for _ in range(60):
        optimizer.zero_grad()
        product(z).parts["disentanglement"].backward()
        optimizer.step()
    assert product(z).parts["disentanglement"].item() < 0.5 * first


def test_padding_counts_in_no_disentanglement() -> None:
    torch.manual_seed(0)
    product = Product(VQ(4, 30), 2, disentanglement=1.0).train()
    z, mask = torch.randn(1, 6, 8), torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(product(z, mask).parts["disentanglement"], product(z[:, :4]).parts["disentanglement"])


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("rotation", [True, False])
def test_heads_match_vector_quantize_pytorch(separate: bool, cosine: bool, rotation: bool) -> None:
    torch.manual_seed(0)
    options = {"separate_codebook_per_head": separate, "use_cosine_sim": cosine, "rotation_trick": rotation}
    reference = VectorQuantize(dim=16, heads=4, codebook_dim=4, codebook_size=24, decay=0.9, **options).train()
    estimator = "rotation" if rotation else "straight_through"
    head = VQ(4, 24, normalize=cosine, learn="ema", commitment=1.0, estimator=estimator, decay=0.9)
    product = Product(head, 4, shared=not separate).train()
    theirs = reference._codebook
    for member, *tensors in zip(product.quantizers, theirs.embed, theirs.cluster_size, theirs.embed_avg, strict=True):
        names = ("codebook", "cluster_size", "cluster_sum")
        member.load_state_dict({name: tensor.clone() for name, tensor in zip(names, tensors, strict=True)})
    z, g = torch.randn(2, 30, 16), torch.randn(2, 30, 16)
    one, two = z.clone().requires_grad_(), z.clone().requires_grad_()
    latents, indices, loss = reference(one)
    out = product(two)
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.latents, latents, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.loss, loss.sum())
    ((latents * g).sum() + loss.sum()).backward()
    ((out.latents * g).sum() + out.loss).backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6)
    for member, codes in zip(product.quantizers, theirs.embed, strict=True):
        torch.testing.assert_close(member.codebook, codes, rtol=1e-5, atol=1e-6)


def test_grouped_residual_matches_vector_quantize_pytorch() -> None:
    torch.manual_seed(0)
    reference = GroupedResidualVQ(dim=12, num_quantizers=3, groups=2, codebook_size=40, kmeans_init=False).eval()
    product = Product(Residual(VQ(6, 40, learn="ema"), 3), 2).eval()
    for group, residual in zip(reference.rvqs, product.quantizers, strict=True):
        for theirs, ours in zip(group.layers, residual.levels, strict=True):
            ours.codebook.copy_(theirs.codebook)
    z = torch.randn(2, 9, 12)
    latents, indices, _ = reference(z)
    out = product(z)
    assert product.codebook_sizes == (40,) * 6
    assert torch.equal(out.indices, torch.cat(list(indices), -1))
    torch.testing.assert_close(out.latents, latents)


def test_estimator_is_set_through() -> None:
    product = Product([VQ(4, 20), Projected(VQ(3, 20), 4)])
    product.estimator = "none"
    assert {product.estimator, *(member.estimator for member in product.quantizers)} == {"none"}
    z = torch.randn(1, 5, 8, requires_grad=True)
    latents = product.train()(z).latents
    assert torch.autograd.grad(latents.sum(), z, allow_unused=True)[0] is None
    with pytest.raises(ValueError, match="Product expects estimator"):
        product.estimator = "ste"


def test_levels_of_a_residual() -> None:
    """A product as a level: the gradient is the identity's, and every level's loss reaches z."""
    quantizer = Residual(Product(VQ(2, 20), 3), 2).train()
    z = torch.randn(1, 6, 6, requires_grad=True)
    out = quantizer(z)
    (gradient,) = torch.autograd.grad(out.latents.sum(), z)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    assert quantizer.codebook_sizes == (20,) * 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: Product([]),
        lambda: Product([VQ(4, 8)], 2),
        lambda: Product([VQ(4, 8)], shared=True),
        lambda: Product(VQ(4, 8), 0),
        lambda: Product(VQ(4, 8), 2, reduce="max"),
    ],
)
def test_wrong_options_are_explained(make: Any) -> None:
    with pytest.raises(ValueError, match="Product expects"):
        make()


@pytest.mark.parametrize("members", [[VQ(4, 8), VQ(3, 8)], [VQ(4, 8)], [FSQ([3]), VQ(4, 8)]])
def test_groups_of_different_width_cannot_be_compared(members: list[Any]) -> None:
    with pytest.raises(ValueError, match="two or more groups of one width"):
        Product(members, disentanglement=0.1)


def gradients(product: Product, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    out = product(z)
    return torch.autograd.grad(out.latents.sum() + out.loss, z)[0]


def test_gradients_stay_in_their_group() -> None:
    torch.manual_seed(0)
    product, z = Product(VQ(2, 20), 2).train(), torch.randn(1, 5, 4)
    other = torch.cat((z[..., :2], torch.randn(1, 5, 2)), -1)
    assert torch.equal(gradients(product, z)[..., :2], gradients(product, other)[..., :2])
