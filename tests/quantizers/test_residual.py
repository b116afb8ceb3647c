"""Residual: gradients, levels, dropout, taps, and parity with vector-quantize-pytorch."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from vector_quantize_pytorch import GroupedResidualVQ, ResidualVQ

from quantizers import FSQ, KL, LFQ, VQ, Product, Projected, Quantizer, Residual, SplitResidual


def started(count: int, dim: int = 4, size: int = 16, **options: Any) -> Residual:
    """Levels whose codebooks fit normal latents."""
    torch.manual_seed(0)
    dropout = options.pop("quantize_dropout", 0.0)
    quantizer = Residual(VQ(dim, size, learn="ema", kmeans_init=True, commitment=1.0), count, **options).train()
    quantizer(torch.randn(1, 512, dim))
    quantizer.quantize_dropout = dropout
    return quantizer


def by_output(quantizer: Quantizer, z: Tensor) -> Tensor:
    upstream = torch.randn(quantizer(z).latents.shape, generator=torch.Generator().manual_seed(7))
    (found,) = torch.autograd.grad(quantizer(z).latents, z, upstream)
    return found / upstream


def commitments(quantizer: Residual, z: Tensor) -> list[float]:
    """Norm of the gradient that the commitment loss of each level sends to z."""
    losses: list[Tensor] = []
    handles = [
        level.register_forward_hook(lambda *call: losses.append(call[-1].parts["commitment"]))
        for level in quantizer.levels
    ]
    quantizer(z)
    for handle in handles:
        handle.remove()
    return [torch.autograd.grad(loss, z, retain_graph=True)[0].norm().item() for loss in losses]


@pytest.mark.parametrize("levels", [2, 4, 8, 16])
@pytest.mark.parametrize("inner", ["vq", "lfq"])
def test_gradient_to_the_latents_by_number_of_levels(levels: int, inner: str) -> None:
    def make() -> Quantizer:
        return VQ(4, 8) if inner == "vq" else LFQ(4, entropy=0.0)

    z = torch.randn(2, 5, 4, requires_grad=True)
    for gradient, factor in (("once", 1), ("chained", 1), ("per_level", levels)):
        quantizer = Residual(make(), levels, gradient=gradient).train()
        expected = torch.full_like(z, factor)
        torch.testing.assert_close(by_output(quantizer, z), expected, rtol=1e-4, atol=0)


def test_commitment_of_every_level_reaches_the_latents() -> None:
    z = torch.randn(2, 50, 4, requires_grad=True)
    chained, *others = (started(4, gradient=gradient) for gradient in ("chained", "once", "per_level"))
    assert [norm > 0 for norm in commitments(chained, z)] == [True, False, False, False]
    for quantizer in others:
        norms = commitments(quantizer, z)
        assert norms == sorted(norms, reverse=True) and norms[-1] > 0.1 * norms[0]


def test_rotation_over_the_sum_is_as_strong_as_the_codes_are_long() -> None:
    """One rotation carries z onto the sum: the gradient's length follows |sum| / |z|, not its eighth power."""
    quantizer = started(8)
    quantizer.estimator = "rotation"
    z = torch.randn(1, 200, 4, requires_grad=True)
    out = quantizer(z)
    (found,) = torch.autograd.grad(out.latents.sum(), z)
    expected = 2 * out.latents.norm(dim=-1) / z.norm(dim=-1)
    torch.testing.assert_close(found.norm(dim=-1), expected.detach(), rtol=1e-4, atol=0)


def test_what_learns_under_once() -> None:
    quantizer = Residual(Projected(VQ(3, 8), 4), 3).train()
    z = torch.randn(1, 9, 4, requires_grad=True)
    out = quantizer(z)
    first = quantizer.levels[0]
    out.latents.square().sum().backward(retain_graph=True)
    assert first.project_out.weight.grad.any() and first.project_in.weight.grad is None
    out.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in quantizer.parameters())


def test_estimator_is_taken_from_the_levels_and_given_back() -> None:
    once = Residual(VQ(4, 8, estimator="rotation"), 2)
    assert once.estimator == "rotation" and [level.estimator for level in once.levels] == ["none", "none"]
    nested = Residual(Product(Residual(VQ(2, 8), 2), 2), 2).train()
    assert nested.estimator == "straight_through"
    z = torch.randn(2, 5, 4, requires_grad=True)
    torch.testing.assert_close(by_output(nested, z), torch.ones_like(z))
    chained = Residual(VQ(4, 8), 2, gradient="chained")
    chained.estimator = "none"
    assert [level.estimator for level in chained.levels] == ["none", "none"]
    assert not chained.train()(z).latents.requires_grad


def test_levels_and_copies() -> None:
    quantizer = Residual(Projected(VQ(3, 8), 4, weight_norm=True), 3)
    for name, parameter in quantizer.levels[0].named_parameters():
        assert not torch.equal(parameter, quantizer.levels[1].get_parameter(name)), name
    mixed = Residual([VQ(4, 8), FSQ([3, 3, 3, 3]), Product(VQ(2, 5), 2)], 3).eval()
    assert mixed.codebook_sizes == (8, 81, 5, 5)
    out = mixed(torch.randn(2, 5, 4))
    assert torch.equal(mixed.lookup(out.indices), out.latents)
    assert torch.equal(mixed.lookup(out.indices[..., :1]), mixed.levels[0].lookup(out.indices[..., :1]))
    with pytest.raises(ValueError, match=r"expects indices \(B, N, 4\), got \(2, 5, 3\)"):
        mixed.lookup(out.indices[..., :3])  # half of the last level


def test_a_prefix_decodes_to_the_partial_sum_and_levels_refine() -> None:
    quantizer = started(6).eval()
    z = torch.randn(2, 100, 4)
    out = quantizer(z)
    errors, total = [z.square().mean()], torch.zeros_like(z)
    for count, level in enumerate(quantizer.levels, start=1):
        total = total + level.lookup(out.indices[..., count - 1 : count])
        prefix = quantizer.lookup(out.indices[..., :count])
        assert torch.equal(prefix, total)
        errors.append((prefix - z).square().mean())
    assert all(after < 0.8 * before for before, after in pairwise(errors))
    torch.testing.assert_close(out.parts["commitment"], torch.stack(errors[1:]).mean())


def test_each_level_starts_from_what_the_one_before_left_over() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 300, 4) * 5 + 20
    quantizer = Residual(VQ(4, 16, kmeans_init=True), 3).train()
    residual = x - quantizer(x).latents.detach()
    assert [bool(level.initialized) for level in quantizer.levels] == [True] * 3
    assert quantizer.levels[0].codebook.mean() > 15
    for before, after in pairwise(quantizer.levels):
        assert after.codebook.norm(dim=-1).mean() < 0.8 * before.codebook.norm(dim=-1).mean()
    assert residual.square().mean() < 0.1 * x.var()


def test_dead_codes_of_deep_levels_come_back() -> None:
    torch.manual_seed(0)
    quantizer = Residual(VQ(4, 16, learn="ema", decay=0.8, dead_code_threshold=0.1), 3).train()
    with torch.no_grad():
        for level in quantizer.levels:
            level.codebook[1:] += 100
            level.cluster_sum.copy_(level.codebook)
    x = torch.randn(1, 256, 4)
    assert all(len(column.unique()) == 1 for column in quantizer(x).indices.unbind(-1))
    for _ in range(30):
        out = quantizer(x)
    assert all(len(column.unique()) >= 12 for column in out.indices.unbind(-1))


@pytest.mark.parametrize("learn", ["gradient", "ema"])
def test_shared_levels_are_one_codebook_and_one_step(learn: Any) -> None:
    torch.manual_seed(0)
    book = VQ(4, 32, learn=learn, dead_code_threshold=0.01, decay=0.5)
    quantizer = Residual(book, 3, shared=True).train()
    assert list(quantizer.levels) == [book] and quantizer.codebook_sizes == (32, 32, 32)
    x = torch.randn(2, 50, 4)
    before = copy.deepcopy(book)
    out = quantizer(x)
    assert torch.equal(out.latents, sum(F.embedding(column, before.codebook) for column in out.indices.unbind(-1)))
    counts = torch.bincount(out.indices.flatten(), minlength=32).float()
    torch.testing.assert_close(book.cluster_size, 0.5 * before.cluster_size + 0.5 * counts)
    if learn == "gradient":
        out.loss.backward()
        assert (book.codebook.grad.norm(dim=-1) > 0).equal(counts > 0)


def test_shared_codebook_with_normalisation_and_dead_codes_keeps_its_graph() -> None:
    quantizer = Residual(VQ(4, 32, normalize=True, dead_code_threshold=0.9, entropy=0.1), 3, shared=True).train()
    for _ in range(3):
        out = quantizer(torch.randn(1, 40, 4))
        (out.loss + out.latents.sum()).backward()


def test_count_floor_shrinks_codes_that_are_hardly_used() -> None:
    """EvoTok's moving average: sum / max(count, 1)."""
    torch.manual_seed(0)
    book = VQ(4, 64, learn="ema", decay=0.5, count_floor=1.0)
    quantizer = Residual(book, 2, shared=True).train()
    for _ in range(10):
        quantizer(torch.randn(1, 8, 4))
    expected = book.cluster_sum / book.cluster_size.clamp_min(1)[:, None]
    torch.testing.assert_close(book.codebook, expected, rtol=1e-3, atol=1e-6)
    assert (book.cluster_size < 0.5).any()


def test_sums_and_means_over_levels() -> None:
    z = torch.randn(2, 9, 4)
    mean, total = started(3), started(3, reduce="sum")
    one, three = mean(z), total(z)
    torch.testing.assert_close(3 * one.loss, three.loss)
    torch.testing.assert_close(3 * one.parts["commitment"], three.parts["commitment"])


def kept(quantizer: Residual, z: Tensor) -> Tensor:
    """Levels whose codes add up to the latents of each item in a training forward."""
    twin = copy.deepcopy(quantizer).eval()
    out = quantizer(z)
    prefixes = [twin.lookup(out.indices[..., :count]) for count in range(1, quantizer.num_quantizers + 1)]
    same = torch.stack([(prefix == out.latents).flatten(1).all(1) for prefix in prefixes])
    assert same.sum(0).eq(1).all()
    return same.int().argmax(0) + 1


def test_dropout_keeps_a_uniform_number_of_levels_for_a_share_of_the_items() -> None:
    quantizer = started(4, quantize_dropout=0.5, dropout_min=2)
    counts = torch.bincount(kept(quantizer, torch.randn(3000, 1, 4)), minlength=5) / 3000
    torch.testing.assert_close(counts, torch.tensor([0, 0, 1 / 6, 1 / 6, 2 / 3]), atol=0.03, rtol=0)
    assert kept(quantizer.eval(), torch.randn(50, 1, 4)).eq(4).all()


def test_dropout_acts_on_single_items_unless_the_fault_of_dac_is_wanted() -> None:
    z = torch.randn(1, 3, 4)
    for reference_bugs in (False, True):
        quantizer = started(4, quantize_dropout=0.5, reference_bugs=reference_bugs)
        counts = torch.cat([kept(quantizer, z) for _ in range(30)])
        assert (counts < 4).any() != reference_bugs
    counts = torch.stack([kept(quantizer, torch.randn(5, 3, 4)) for _ in range(30)])
    assert (counts[:, :2] < 4).any(0).all() and counts[:, 2:].eq(4).all(), "int(5 * 0.5) items"


def test_dropped_levels_count_in_no_loss_and_no_statistic() -> None:
    torch.manual_seed(0)
    quantizer = Residual(VQ(4, 8, learn="ema", decay=0.0), 3, quantize_dropout=1.0, reduce="sum").train()
    z, mask = torch.randn(6, 5, 4), torch.arange(5).expand(6, -1) < torch.tensor([[5], [4], [3], [5], [0], [2]])
    before = copy.deepcopy(quantizer).eval()
    eager = before(z, mask)
    torch.manual_seed(1)
    counts = kept(copy.deepcopy(quantizer), z.masked_fill(~mask[..., None], 0))
    torch.manual_seed(1)
    out = quantizer(z, mask)
    assert torch.equal(out.indices, eager.indices), "they run nevertheless"
    assert len(counts.unique()) > 1 and counts.min() < 3
    expected, residual = torch.zeros(()), z
    for depth, level in enumerate(quantizer.levels):
        residual = residual - before.levels[depth].lookup(eager.indices[..., [depth]])
        counted = mask & (counts > depth)[:, None]
        expected = expected + (residual.square().mean(-1) * counted).sum() / mask.sum()
        assert level.cluster_size.sum().item() == pytest.approx(int(counted.sum()))
    torch.testing.assert_close(out.parts["commitment"], expected)
    torch.testing.assert_close(out.loss, 0.25 * expected)


def test_gradient_under_dropout() -> None:
    quantizer = started(4, quantize_dropout=1.0)
    z = torch.randn(8, 5, 4, requires_grad=True)
    torch.testing.assert_close(by_output(quantizer, z), torch.ones_like(z))


def test_a_share_of_the_items_passes_unquantized_in_training_alone() -> None:
    quantizer, z = started(3), torch.randn(400, 2, 4, requires_grad=True)
    codes = copy.deepcopy(quantizer)(z)
    quantizer.unquantized = 0.25
    out = quantizer(z)
    passed = (out.latents == z).flatten(1).all(1)
    assert 60 < int(passed.sum()) < 140
    assert torch.equal(out.latents[~passed], codes.latents[~passed])
    assert torch.equal(out.indices, codes.indices) and torch.equal(out.loss, codes.loss)
    torch.testing.assert_close(by_output(quantizer, z), torch.ones_like(z))
    quantizer.eval()
    assert torch.equal(quantizer(z).latents, quantizer.lookup(quantizer(z).indices))


def test_taps_put_partial_sums_side_by_side() -> None:
    torch.manual_seed(0)
    quantizer = started(4, taps=(2, 4))
    assert (quantizer.input_dim, quantizer.dim) == (4, 8)
    z = torch.randn(2, 9, 4, requires_grad=True)
    weights = torch.randn(2, 9, 8)
    (found,) = torch.autograd.grad((quantizer(z).latents * weights).sum(), z)
    torch.testing.assert_close(found, weights[..., :4] + weights[..., 4:])
    quantizer.eval()
    out = quantizer(z)
    whole = started(4).eval()
    whole.load_state_dict(quantizer.state_dict())
    for tap, part in zip((2, 4), out.latents.split(4, dim=-1), strict=True):
        assert torch.equal(part, whole.lookup(out.indices[..., :tap]))
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    three = quantizer.lookup(out.indices[..., :3])
    assert torch.equal(three[..., 4:], whole.lookup(out.indices[..., :3]))
    errors = [(z - quantizer.lookup(out.indices[..., :depth])[..., 4:]).square().mean() for depth in (1, 2, 3, 4)]
    torch.testing.assert_close(out.parts["commitment"], torch.stack(errors).mean(), msg="EvoTok's loss")


def test_half_precision_flips_no_code() -> None:
    quantizer = started(8).eval()
    z = torch.randn(4, 64, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z).indices, quantizer(z.float()).indices)
    assert torch.equal(quantizer(z.bfloat16()).indices, quantizer(z.bfloat16().float()).indices)
    projected = Residual(Projected(VQ(3, 16, metric="cosine"), 4), 4, gradient="chained").eval()
    expected = projected(z).indices
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projected(z).indices, expected)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    tokens=st.integers(0, 6),
    dim=st.integers(1, 5),
    levels=st.integers(1, 5),
    size=st.integers(1, 9),
    gradient=st.sampled_from(["once", "chained", "per_level"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    batch: int, tokens: int, dim: int, levels: int, size: int, gradient: Any, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    quantizer = Residual(VQ(dim, size), levels, gradient=gradient).eval()
    out = quantizer(torch.randn(batch, tokens, dim, dtype=dtype))
    assert out.indices.shape == (batch, tokens, levels) and out.latents.shape == (batch, tokens, dim)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    for count in range(1, levels + 1):
        assert quantizer.lookup(out.indices[..., :count]).shape == (batch, tokens, dim)


@pytest.mark.parametrize("cosine", [False, True])
def test_parity_with_vector_quantize_pytorch(cosine: bool) -> None:
    torch.manual_seed(0)
    theirs = ResidualVQ(dim=8, num_quantizers=4, codebook_size=64, use_cosine_sim=cosine).eval()
    ours = Residual(VQ(8, 64, learn="ema", normalize=cosine), 4).eval()
    copy_codebooks(ours, theirs.layers)
    z = torch.randn(2, 300, 8)
    output, indices, _ = theirs(z)
    out = ours(z)
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.latents, output)


def test_parity_with_grouped_residual_vq() -> None:
    torch.manual_seed(0)
    theirs = GroupedResidualVQ(dim=8, groups=2, num_quantizers=3, codebook_size=64).eval()
    ours = Product(Residual(VQ(4, 64, learn="ema"), 3), 2).eval()
    for group, reference in zip(ours.quantizers, theirs.rvqs, strict=True):
        copy_codebooks(group, reference.layers)
    z = torch.randn(2, 300, 8)
    output, indices, _ = theirs(z)
    out = ours(z)
    assert torch.equal(out.indices, torch.cat(list(indices), dim=-1))
    torch.testing.assert_close(out.latents, output)


def copy_codebooks(ours: Residual, theirs: nn.ModuleList) -> None:
    for level, layer in zip(ours.levels, theirs, strict=True):
        level.codebook.copy_(layer._codebook.embed[0])


def test_split_stacks_weigh_by_their_levels() -> None:
    torch.manual_seed(0)
    stacks = [Projected(Residual(VQ(3, 8), count), 4) for count in (1, 3)]
    quantizer = SplitResidual(stacks).train()
    z = torch.randn(2, 9, 4, requires_grad=True)
    out, one, two = quantizer(z), stacks[0](z), stacks[1](z)
    assert quantizer.codebook_sizes == (8,) * 4 and quantizer.estimator == "straight_through"
    assert torch.equal(out.latents, one.latents + two.latents)
    assert torch.equal(out.indices, torch.cat((one.indices, two.indices), dim=-1))
    torch.testing.assert_close(out.loss, 0.25 * one.loss + 0.75 * two.loss)
    torch.testing.assert_close(out.parts["codebook"], 0.25 * one.parts["codebook"] + 0.75 * two.parts["codebook"])
    assert torch.equal(quantizer.lookup(out.indices[..., :1]), stacks[0].lookup(one.indices))
    prefix = stacks[0].lookup(one.indices) + stacks[1].lookup(two.indices[..., :2])
    assert torch.equal(quantizer.lookup(out.indices[..., :3]), prefix)
    with pytest.raises(ValueError, match=r"expects indices \(B, N, 4\), got \(2, 9, 5\)"):
        quantizer.lookup(torch.zeros(2, 9, 5, dtype=torch.int64))
    quantizer.estimator = "none"
    assert [stack.quantizer.estimator for stack in stacks] == ["none", "none"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual(VQ(4, 8)), "num_quantizers >= 1"),
        (lambda: Residual(VQ(4, 8), 0), "num_quantizers >= 1"),
        (lambda: Residual([]), "at least one"),
        (lambda: Residual([VQ(4, 8)], 2), "their number or none"),
        (lambda: Residual([VQ(4, 8)], shared=True), "shared=False"),
        (lambda: Residual([VQ(4, 8), VQ(3, 8)]), "Projected"),
        (lambda: Residual(KL(4), 2), "one width"),
        (lambda: Residual([VQ(4, 8), VQ(4, 8, estimator="rotation")]), "one estimator"),
        (lambda: Residual(VQ(4, 8), 2, gradient="twice"), "'once', 'chained' or 'per_level'"),
        (lambda: Residual(VQ(4, 8), 2, reduce="max"), "'mean' or 'sum'"),
        (lambda: Residual(VQ(4, 8), 2, quantize_dropout=1.5), r"quantize_dropout in \[0, 1\]"),
        (lambda: Residual(VQ(4, 8), 2, unquantized=-0.1), r"unquantized in \[0, 1\]"),
        (lambda: Residual(VQ(4, 8), 2, dropout_min=3), "from 1 to its 2 levels"),
        (lambda: Residual(VQ(4, 8), 2, taps=(2, 1)), "ascend"),
        (lambda: Residual(VQ(4, 8), 2, taps=(3,)), "ascend"),
        (lambda: SplitResidual([VQ(4, 8), VQ(3, 8)]), "one width"),
        (lambda: SplitResidual([]), "one width"),
        (lambda: SplitResidual([VQ(4, 8), VQ(4, 8, estimator="none")]), "one estimator"),
    ],
)
def test_wrong_options_are_explained(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
