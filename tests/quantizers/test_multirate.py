"""MultiRate: levels at fractions of the rate."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import FSQ, LFQ, VQ, MultiRate, Projected


def stack(strides: tuple[int, ...] = (4, 2, 1), size: int = 64, **options: Any) -> MultiRate:
    quantizer = MultiRate(VQ(4, size, estimator=options.pop("estimator", "straight_through")), strides, **options)
    with torch.no_grad():
        for level in quantizer.levels:
            level.codebook.normal_()
    return quantizer


@settings(max_examples=25, deadline=None)
@given(
    strides=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4),
    blocks=st.integers(0, 2),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_any_strides(strides: list[int], blocks: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = stack(tuple(sorted(strides, reverse=True))).eval()
    positions = 12 * blocks
    z = torch.randn(batch, positions, 4)
    out = quantizer(z)
    tokens = quantizer.tokens_per_level(positions)
    assert tokens == tuple(positions // stride for stride in quantizer.strides)
    assert out.indices.shape == (batch, sum(tokens), 1) and out.latents.shape == z.shape
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    total = torch.zeros_like(z)
    for levels in range(1, len(strides) + 1):
        stride = quantizer.strides[levels - 1]
        part = out.indices[:, sum(tokens[: levels - 1]) : sum(tokens[:levels])]
        total = total + quantizer.levels[levels - 1].lookup(part).repeat_interleave(stride, dim=1)
        assert torch.equal(quantizer.lookup(out.indices[:, : sum(tokens[:levels])], levels), total)


def test_levels_quantize_averages_of_what_is_left() -> None:
    torch.manual_seed(0)
    quantizer = stack().eval()
    z = torch.randn(2, 8, 4)
    out = quantizer(z)
    rest, losses = z, []
    for level, stride, codes in zip(quantizer.levels, (4, 2, 1), out.indices.split([2, 4, 8], dim=1), strict=True):
        found = level(torch.nn.functional.avg_pool1d(rest.mT, stride).mT)
        assert torch.equal(found.indices, codes)
        rest = rest - found.latents.repeat_interleave(stride, dim=1)
        losses.append(found.loss)
    torch.testing.assert_close(out.latents, z - rest)
    torch.testing.assert_close(out.loss, torch.stack(losses).mean())
    summed = MultiRate(list(quantizer.levels), (4, 2, 1), reduce="sum").eval()
    torch.testing.assert_close(summed(z).loss, torch.stack(losses).sum())
    torch.testing.assert_close(summed(z).parts["commitment"], 3 * out.parts["commitment"])


def test_error_falls_from_level_to_level() -> None:
    torch.manual_seed(0)
    quantizer = stack((4, 2, 1), size=512).eval()
    with torch.no_grad():
        for level, length in zip(quantizer.levels, (1.0, 0.6, 0.4), strict=True):
            level.codebook.mul_(length)
    z = torch.randn(4, 64, 4).cumsum(1) / 4
    indices = quantizer(z).indices
    errors = [
        (quantizer.lookup(indices[:, :end], levels) - z).square().mean().item()
        for levels, end in ((1, 16), (2, 48), (3, 112))
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("gradient", ["once", "chained"])
def test_one_estimate_over_the_whole_sum(gradient: Any) -> None:
    torch.manual_seed(0)
    quantizer = stack(gradient=gradient)
    assert all(level.estimator == ("none" if gradient == "once" else "straight_through") for level in quantizer.levels)
    z, cotangent = torch.randn(2, 8, 4, requires_grad=True), torch.randn(2, 8, 4)
    out = quantizer(z)
    (got,) = torch.autograd.grad((out.latents * cotangent).sum(), z, retain_graph=True)
    torch.testing.assert_close(got, cotangent)  # chained: averages cancel in the residual, the last level passes it on
    (by_loss,) = torch.autograd.grad(out.loss, z)
    assert by_loss.any()
    quantizer.estimator = "none"
    assert not quantizer(z).latents.requires_grad


def test_projections_behind_the_codes_learn_from_the_output() -> None:
    torch.manual_seed(0)
    quantizer = MultiRate(Projected(VQ(2, 16, metric="cosine"), 4, weight_norm=True), (2, 1))
    z = torch.randn(2, 8, 4, requires_grad=True)
    quantizer(z).latents.square().sum().backward()
    for level in quantizer.levels:
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in level.project_out.parameters())
        assert all(parameter.grad is None for parameter in level.project_in.parameters())
    assert z.grad is not None and z.grad.any()


def test_padding_changes_nothing_and_groups_average_what_is_real() -> None:
    torch.manual_seed(0)
    quantizer = MultiRate(VQ(4, 32, learn="ema", decay=0.0), (4, 2, 1))
    z = torch.randn(2, 12, 4, requires_grad=True)
    mask = (torch.arange(12) < 6).expand(2, -1)
    before = copy.deepcopy(quantizer)
    first = before(z, mask)
    other = z.detach().masked_fill(~mask[..., None], 1e3)
    second = quantizer(other, mask)
    assert torch.equal(first.indices, second.indices) and torch.equal(first.loss, second.loss)
    (first.latents.sum() + first.loss).backward()
    assert z.grad is not None and not z.grad[~mask].any() and z.grad[mask].all()
    counts = [round(level.cluster_size.sum().item()) for level in quantizer.levels]
    assert counts == [2 * 2, 2 * 3, 2 * 6]
    half = MultiRate(VQ(4, 32), (4,)).eval()
    mean = other[:, 4:6].mean(1, keepdim=True)
    assert torch.equal(half(other, mask).indices[:, 1:2], half.levels[0](mean).indices)


def test_levels_are_copies_with_parameters_of_their_own() -> None:
    quantizer = MultiRate(Projected(VQ(2, 16), 4), (2, 1))
    assert not torch.equal(quantizer.levels[0].quantizer.codebook, quantizer.levels[1].quantizer.codebook)
    assert not torch.equal(quantizer.levels[0].project_in.weight, quantizer.levels[1].project_in.weight)


@pytest.mark.parametrize(
    ("quantizer", "strides", "options", "message"),
    [
        (lambda: VQ(4, 8), (), {}, "strides of at least 1"),
        (lambda: VQ(4, 8), (1, 2), {}, r"fall from coarse to fine.*got \(1, 2\)"),
        (lambda: VQ(4, 8), (2, 0), {}, "at least 1"),
        (lambda: VQ(4, 8), (2, 1), {"gradient": "twice"}, "got 'twice'"),
        (lambda: VQ(4, 8), (2, 1), {"reduce": "max"}, "got 'once' and 'max'"),
        (lambda: [VQ(4, 8)], (2, 1), {}, "got 1 for 2 strides"),
        (lambda: [VQ(4, 8), VQ(3, 8)], (2, 1), {}, r"\(3, 3\), \(4, 4\)"),
        (lambda: [VQ(4, 8), VQ(4, 16)], (2, 1), {}, r"got \[\(8,\), \(16,\)\]"),
        (lambda: [FSQ([4, 4]), LFQ(2)], (2, 1), {}, "one set of codebook sizes"),
    ],
)
def test_wrong_options_are_explained(quantizer: Any, strides: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiRate(quantizer(), strides, **options)


def test_wrong_input_is_explained() -> None:
    quantizer = stack((4, 3, 1))
    with pytest.raises(ValueError, match=r"divisible by its strides \(4, 3, 1\), got 16; pad to a multiple of 12"):
        quantizer(torch.randn(2, 16, 4))
    with pytest.raises(ValueError, match="a multiple of 19 indices"):
        quantizer.lookup(torch.zeros(2, 16, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="levels from 1 to 3, got 4"):
        quantizer.lookup(torch.zeros(2, 19, 1, dtype=torch.int64), levels=4)
