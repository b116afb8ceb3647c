"""MultiScaleVQ: scales, sums, losses, padding, learning over all scales."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from quantizers import FSQ, KL, LFQ, VQ, MultiScaleVQ, Projected
from quantizers.phi import enlarge, nearest_tick, shrink


def book(dim: int = 4, size: int = 64, **options: Any) -> VQ:
    """A codebook of normal vectors, some of them long and some short."""
    quantizer = VQ(dim, size, **options)
    with torch.no_grad():
        quantizer.codebook.normal_()
        quantizer.codebook.mul_(torch.linspace(0.1, 1, size)[:, None])
    return quantizer


def smooth(batch: int, side: int, dim: int = 4, seed: int = 0) -> Tensor:
    """Latents (B, side^2, dim) with detail at every scale."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, dim, side, side)
    for size in (1, 2, max(side // 2, 1), side):
        total += enlarge(torch.randn(batch, dim, size, size, generator=generator), (side, side))
    return total.flatten(2).mT


@settings(max_examples=15, deadline=None)
@given(
    grids=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=5),
    phis=st.integers(0, 4),
    batch=st.integers(0, 3),
    training=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_list_of_scales(grids: list[tuple[int, int]], phis: int, batch: int, training: bool, seed: int) -> None:
    torch.manual_seed(seed)
    heights, widths = (sorted(sizes) for sizes in zip(*grids, strict=True))
    quantizer = MultiScaleVQ(book(), list(zip(heights, widths, strict=True)), phis=phis).train(training)
    z = torch.randn(batch, heights[-1] * widths[-1], 4)
    out = quantizer(z)
    assert quantizer.scales == tuple(h * w for h, w in zip(heights, widths, strict=True))
    assert out.indices.shape == (batch, sum(quantizer.scales), 1) and out.latents.shape == z.shape
    assert out.loss.isfinite()
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    sums, end = quantizer.partial_sums(out.indices), 0
    for total, count in zip(sums, quantizer.scales, strict=True):
        end += count
        assert torch.equal(quantizer.lookup(out.indices[:, :end]), total)


def test_no_scales_yet_are_zeros() -> None:
    quantizer = MultiScaleVQ(book(), (1, 2, 4))
    latents = quantizer.lookup(torch.empty(3, 0, 1, dtype=torch.int64))
    assert torch.equal(latents, torch.zeros(3, 16, 4))
    assert quantizer.partial_sums(torch.empty(3, 0, 1, dtype=torch.int64)) == []
    assert quantizer.teacher_forcing(torch.empty(3, 0, 1, dtype=torch.int64)).shape == (3, 0, 4)


@pytest.mark.parametrize("inner", [lambda: book(), lambda: book(learn="ema"), lambda: book(metric="cosine")])
def test_one_scale_is_the_quantizer_itself(inner: Any) -> None:
    torch.manual_seed(0)
    alone = inner().eval()
    z = torch.randn(2, 9, 4)
    out, expected = MultiScaleVQ(copy.deepcopy(alone), (3,), phis=0).eval()(z), alone(z)
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.latents, expected.latents)
    torch.testing.assert_close(out.parts["commitment"], expected.parts["commitment"])


def test_error_falls_from_scale_to_scale() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(size=512), (1, 2, 4, 8), phis=0).eval()
    z = smooth(8, 8)
    errors = [(total - z).square().mean().item() for total in quantizer.partial_sums(quantizer(z).indices)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[0]


def test_a_line_of_the_lengths_of_vat() -> None:
    torch.manual_seed(0)
    lengths = [side * side for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
    quantizer = MultiScaleVQ(book(size=256), lengths, ndim=1).eval()
    assert quantizer.scales == tuple(lengths) and quantizer.phi[0].conv.weight.shape == (4, 4, 1, 3)
    z = torch.randn(1, 256, 4).cumsum(1) / 8
    out = quantizer(z)
    assert out.indices.shape == (1, 680, 1)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    sums = quantizer.partial_sums(out.indices)
    assert (sums[-1] - z).square().mean() < 0.5 * (sums[0] - z).square().mean()


@pytest.mark.parametrize("estimator", ["straight_through", "rotation", "none"])
def test_one_estimate_over_the_whole_sum(estimator: Any) -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(estimator=estimator), (1, 2, 3, 4), phis=2)
    assert quantizer.estimator == estimator and quantizer.quantizer.estimator == "none"
    z, cotangent = torch.randn(2, 16, 4, requires_grad=True), torch.randn(2, 16, 4)
    out = quantizer(z)
    if estimator == "none":
        assert not out.latents.requires_grad
        return
    (out.latents * cotangent).sum().backward()
    assert z.grad is not None
    if estimator == "straight_through":
        assert torch.equal(z.grad, cotangent)
    assert all(parameter.grad is None for parameter in quantizer.parameters())  # they learn from the loss alone


def test_loss_is_the_mean_over_partial_sums() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(), (1, 2, 4), commitment=0.3, codebook_loss=0.7, phis=2)
    z = torch.randn(2, 16, 4, requires_grad=True)
    out = quantizer(z)
    error = torch.stack([F.mse_loss(total, z) for total in quantizer.partial_sums(out.indices)]).mean()
    torch.testing.assert_close(out.parts["commitment"], error)
    torch.testing.assert_close(out.parts["codebook"], error)
    torch.testing.assert_close(out.loss, 0.3 * error + 0.7 * error)
    ours = torch.autograd.grad(out.loss, [z, *quantizer.parameters()], retain_graph=True)
    theirs = torch.autograd.grad(error, [z, *quantizer.parameters()])
    for one, other, weight in zip(ours, theirs, (0.3, *[0.7] * 5), strict=True):
        torch.testing.assert_close(one, weight * other)


def test_inner_loss_is_the_mean_over_scales() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 16, 5, requires_grad=True)
    binary = MultiScaleVQ(LFQ(5, entropy=0.1), (1, 4), phis=0, commitment=0, codebook_loss=0)
    assert binary.inner_loss == 1 and MultiScaleVQ(book(), (1, 4)).inner_loss == 0
    out = binary(z)
    alone = binary.quantizer
    coarse = z.mean(1, keepdim=True)
    rest = z - alone.lookup(alone(coarse).indices)
    torch.testing.assert_close(out.loss, (alone(coarse).loss + alone(rest).loss) / 2)
    (by_loss,) = torch.autograd.grad(out.loss, z)
    assert by_loss.abs().max() > 0
    vq = MultiScaleVQ(book(entropy=0.1), (1, 4), inner_loss=2.0)
    out = vq(torch.randn(2, 16, 4))
    expected = 0.25 * out.parts["commitment"] + out.parts["codebook"] + 2 * out.parts["inner"]
    torch.testing.assert_close(out.loss, expected)


@pytest.mark.parametrize(
    "inner", [lambda: FSQ([7, 5, 5, 5]), lambda: LFQ(4), lambda: Projected(book(3), 4), lambda: book(normalize=True)]
)
def test_any_quantizer_inside(inner: Any) -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(inner(), (1, 2, 4), phis=2)
    z = torch.randn(2, 16, 4, requires_grad=True)
    out = quantizer(z)
    (out.latents.square().sum() + out.loss).backward()
    assert z.grad is not None and z.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in quantizer.parameters())
    quantizer.eval()
    out = quantizer(z)
    assert torch.equal(quantizer.lookup(out.indices), out.latents) and not out.latents.requires_grad


def test_averages_take_all_scales_in_one_step() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(size=8, learn="ema", decay=0.9), (1, 2, 4), phis=0)
    inner = quantizer.quantizer
    assert isinstance(inner, VQ) and inner.cluster_size is not None and inner.cluster_sum is not None
    codes, size, total = inner.codes.clone(), inner.cluster_size.clone(), inner.cluster_sum.clone()
    z = torch.randn(2, 16, 4)
    out = quantizer(z)
    vectors, rest = [], z.mT.unflatten(2, (4, 4))
    for side, part in zip((1, 2, 4), out.indices[..., 0].split([1, 4, 16], dim=1), strict=True):
        vectors.append(F.adaptive_avg_pool2d(rest, side).flatten(2).mT)
        rest = rest - enlarge(F.embedding(part, codes).mT.unflatten(2, (side, side)), (4, 4))
    chosen = F.one_hot(out.indices[..., 0].flatten(), 8).float()
    torch.testing.assert_close(inner.cluster_size, 0.9 * size + 0.1 * chosen.sum(0))
    sums = chosen.T @ torch.cat(vectors, dim=1).flatten(0, 1)
    torch.testing.assert_close(inner.cluster_sum, 0.9 * total + 0.1 * sums)


def test_kmeans_starts_from_all_scales() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(VQ(4, 32, learn="ema", kmeans_init=True), (1, 2, 4, 8), phis=0)
    z = smooth(8, 8)
    quantizer(z)
    assert bool(quantizer.quantizer.initialized)
    quantizer.eval()
    out = quantizer(z)
    error = (out.latents - z).square().mean()
    assert len(out.indices.unique()) > 24 and error < 0.5 * z.square().mean()


@pytest.mark.parametrize("learn", ["gradient", "ema"])
def test_dead_codes_come_back_as_residuals(learn: Any) -> None:
    torch.manual_seed(0)
    inner = VQ(4, 16, learn=learn, dead_code_threshold=0.2, decay=0.5, normalize=False)
    with torch.no_grad():
        inner.codebook[8:] = 1e3
    quantizer = MultiScaleVQ(inner, (1, 2, 4), phis=2)
    for _ in range(6):
        out = quantizer(torch.randn(4, 16, 4))
        out.loss.backward()
    assert inner.codebook.abs().max() < 10


def test_padding_changes_nothing_and_cells_average_what_is_real() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(learn="ema"), (1, 2, 4), phis=2)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2:] = False
    mask[0, 3] = False
    mask = mask.flatten().expand(3, -1)
    z = torch.randn(3, 16, 4, requires_grad=True)
    first = copy.deepcopy(quantizer)(z, mask)
    other = z.detach().masked_fill(~mask[..., None], 1e3)
    second = quantizer(other, mask)
    assert torch.equal(first.indices, second.indices) and torch.equal(first.latents, second.latents)
    assert torch.equal(first.loss, second.loss)
    (first.latents.sum() + first.loss).backward()
    assert z.grad is not None and not z.grad[~mask].any() and z.grad[mask].all()
    # The coarsest code is that of the mean over real positions.
    inner = quantizer.quantizer
    fresh = MultiScaleVQ(book(), (1, 2, 4)).eval()
    mean = (other * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    assert torch.equal(fresh(other, mask).indices[:, :1], fresh.quantizer(mean).indices)
    # Of the four cells of 2 x 2 the lower two hold nothing real: 1 + 2 + 7 vectors an item entered the averages.
    assert isinstance(inner, VQ) and inner.cluster_size is not None
    torch.testing.assert_close(inner.cluster_size.sum(), torch.tensor(0.99 * 64 + 0.01 * 3 * 10))


def test_full_mask_is_no_mask() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(), (1, 2, 3, 5))
    z = torch.randn(2, 25, 4)
    first, second = quantizer(z), quantizer(z, torch.ones(2, 25, dtype=torch.bool))
    assert torch.equal(first.indices, second.indices) and torch.equal(first.latents, second.latents)
    torch.testing.assert_close(first.loss, second.loss)


def test_scale_dropout_leaves_one_scale_out() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(learn="ema", decay=0.0), (1, 2, 4), phis=2, scale_dropout=1.0)
    inner = quantizer.quantizer
    assert isinstance(inner, VQ) and inner.cluster_size is not None
    counted, whole = set(), 0
    for _ in range(12):
        before = copy.deepcopy(quantizer).eval()
        z = torch.randn(2, 16, 4, requires_grad=True)
        out = quantizer(z)
        counted.add(round(inner.cluster_size.sum().item()))
        full = before.lookup(out.indices)
        whole += bool(torch.allclose(out.latents, full))
        out.loss.backward()
        assert all(parameter.grad is not None for parameter in quantizer.parameters())
        assert out.indices.shape == (2, 21, 1)
    assert counted == {2 * 17, 2 * 5} and whole == 0
    quantizer.eval()
    out = quantizer(z)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_scale_dropout_happens_in_its_share_of_steps() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(learn="ema"), (1, 2), phis=0, scale_dropout=0.3)
    dropped = 0
    for _ in range(100):
        codes = copy.deepcopy(quantizer).eval()
        out = quantizer(torch.randn(1, 4, 4))
        dropped += not torch.equal(codes.lookup(out.indices), out.latents)
    assert 15 < dropped < 45


def test_generation_step_by_step() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(), (1, 2, (2, 3), (4, 5))).eval()
    codes = quantizer(torch.randn(2, 20, 4)).indices
    inputs = quantizer.teacher_forcing(codes)
    assert inputs.shape == (2, 4 + 6 + 20, 4)
    total, given, start = None, [], 0
    for scale, count in enumerate(quantizer.scales):
        total, following = quantizer.next_input(total, codes[:, start : start + count], scale)
        given.append(following)
        start += count
    assert total is not None and torch.equal(total, quantizer.lookup(codes)) and torch.equal(given[-1], total)
    assert torch.equal(torch.cat(given[:-1], dim=1), inputs)
    assert torch.equal(quantizer.teacher_forcing(codes[:, :5]), inputs[:, :10])
    with pytest.raises(ValueError, match=r"scales \(1, 4, 6, 20\), got \(2, 4, 1\) for scale 2"):
        quantizer.next_input(None, codes[:, :4], 2)


def test_other_scales_share_everything() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(learn="ema", decay=0.5), (1, 2, 4))
    other = quantizer.with_scales((1, 3, (5, 6)))
    assert other.scales == (1, 9, 30) and quantizer.scales == (1, 4, 16)
    before = quantizer.quantizer.codebook.clone()
    out = other.train()(torch.randn(2, 30, 4))
    assert not torch.equal(quantizer.quantizer.codebook, before)
    assert torch.equal(quantizer.quantizer.codebook, other.quantizer.codebook)
    assert out.indices.shape == (2, 40, 1)
    assert len(quantizer.phi) == 3 and len(MultiScaleVQ(book(), range(1, 9)).phi) == 4
    assert {id(p) for p in other.parameters()} == {id(p) for p in quantizer.parameters()}


def test_resampling_is_that_of_torch() -> None:
    x = torch.randn(2, 3, 4, 5)
    bicubic = F.interpolate(x, (9, 13), mode="bicubic", align_corners=False)
    torch.testing.assert_close(enlarge(x, (9, 13)), bicubic)
    torch.testing.assert_close(shrink(x, (3, 2)), F.interpolate(x, (3, 2), mode="area"))
    line = torch.randn(2, 3, 1, 5)
    linear = F.interpolate(line[:, :, 0], 13, mode="linear", align_corners=False)
    torch.testing.assert_close(enlarge(line, (1, 13))[:, :, 0], linear)


@pytest.mark.parametrize(
    ("scales", "count", "expected"),
    [
        (10, 4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),  # VAR's; scales 2 and 7 lie halfway, and rounding decides
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 2, [0, 0, 1]),
        (1, 4, [0]),
        (4, 1, [0, 0, 0, 0]),
    ],
)
def test_convolution_of_each_scale(scales: int, count: int, expected: list[int]) -> None:
    assert [nearest_tick(scale, scales, count) for scale in range(scales)] == expected


def test_scale_dropout_compiles_whole() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleVQ(book(), (1, 2), phis=0, scale_dropout=0.5)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    z, dropped = torch.randn(2, 4, 4), 0
    for _ in range(20):
        codes = copy.deepcopy(quantizer).eval()
        out = compiled(z)
        dropped += not torch.allclose(codes.lookup(out.indices), out.latents)
    assert 2 < dropped < 18


@pytest.mark.parametrize(
    ("scales", "options", "message"),
    [
        ((), {}, "scales of at least 1 that grow"),
        ((1, 4, 2), {}, r"got \[1, 4, 2\]"),
        (((2, 2), (4, 1)), {}, "grow from coarse to fine"),
        ((0, 2), {}, "at least 1"),
        ((1, 2), {"ndim": 3}, "ndim of 1 or 2, got 3"),
        ((1, 2), {"phis": -1}, "phis >= 0"),
        ((1, 2), {"scale_dropout": 1.5}, r"scale_dropout in \[0, 1\]"),
        ((2,), {"scale_dropout": 0.1}, "a single one neither"),
    ],
)
def test_wrong_options_are_explained(scales: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleVQ(book(), scales, **options)


def test_wrong_input_is_explained() -> None:
    quantizer = MultiScaleVQ(book(), (1, 2, 4))
    with pytest.raises(ValueError, match=r"latents \(B, 16, 4\) .* got N = 9; other sizes need other scales"):
        quantizer(torch.randn(2, 9, 4))
    with pytest.raises(ValueError, match="whole scales, 1, 5, 21 positions, got 7"):
        quantizer.lookup(torch.zeros(2, 7, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="put it into Projected"):
        MultiScaleVQ(KL(4), (1, 2))
