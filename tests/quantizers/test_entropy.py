"""Entropies against all 2^G codes one by one, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantizers.entropy import Entropies, EntropyFloor, binary_entropies, softmax_entropies

FLOORS: tuple[EntropyFloor, ...] = ("none", "add", "clamp")


def guarded_log(p: Tensor, floor: EntropyFloor) -> Tensor:
    return {"none": p.clamp_min(1e-300), "add": p + 1e-5, "clamp": p.clamp_min(1e-5)}[floor].log()


def all_patterns(logits: Tensor, floor: EntropyFloor) -> Entropies:
    """Entropies of (N, Q, G) from the probabilities (N, Q, 2^G) of every code."""
    bits = logits.shape[-1]
    signs = ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1).double() * 2 - 1
    p = (logits.double() / 2 @ signs.T).softmax(-1)
    average = p.mean(0)
    # only the batch term is guarded by adding
    per_sample = -(p * guarded_log(p, "none" if floor == "add" else floor)).sum(-1).mean()
    return Entropies(per_sample, -(average * guarded_log(average, floor)).sum(-1).mean())


def groups_of(logits: Tensor, group_bits: int, floor: EntropyFloor) -> Entropies:
    """Sums over the fewest groups of equal size that have at most `group_bits` bits."""
    count = -(-logits.shape[-1] // group_bits)
    found = [all_patterns(group, floor) for group in logits.tensor_split(count, dim=-1)]
    return Entropies(
        torch.stack([one.per_sample for one in found]).sum(), torch.stack([one.batch for one in found]).sum()
    )


def random_logits(seed: int, shape: tuple[int, ...], scale: float) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 12),
    codebooks=st.integers(1, 3),
    bits=st.integers(1, 8),
    group_bits=st.integers(1, 9),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    floor=st.sampled_from(FLOORS),
)
def test_values_and_gradients(
    seed: int, rows: int, codebooks: int, bits: int, group_bits: int, scale: float, floor: EntropyFloor
) -> None:
    logits = random_logits(seed, (rows, codebooks, bits), scale)
    found, expected = binary_entropies(logits, group_bits, floor), groups_of(logits, group_bits, floor)
    for name in Entropies._fields:
        value, truth = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        (slope,) = torch.autograd.grad(truth, logits, retain_graph=True)
        torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=2e-6 * max(slope.abs().max().item(), 1e-2))


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("bits", [13, 18])
def test_wide_joints(bits: int, floor: EntropyFloor) -> None:
    if bits == 18 and floor == "clamp":
        bits = 15  # its per-sample term visits every code
    logits = random_logits(0, (6, 1, bits), 2.0)
    found, expected = binary_entropies(logits, 18, floor), all_patterns(logits, floor)
    for name in Entropies._fields:
        value, truth = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        (slope,) = torch.autograd.grad(truth, logits, retain_graph=True)
        torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-5 * slope.abs().max().item())


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("group_bits", [1, 4, 7])
def test_masked_positions_do_not_count(group_bits: int, floor: EntropyFloor) -> None:
    logits = random_logits(0, (30, 2, 7), 3.0)
    mask = torch.rand(30, generator=torch.Generator().manual_seed(1)) < 0.6
    found, expected = (
        binary_entropies(logits, group_bits, floor, mask),
        binary_entropies(logits[mask], group_bits, floor),
    )
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth)
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        (slope,) = torch.autograd.grad(truth, logits, retain_graph=True)
        torch.testing.assert_close(gradient, slope)
        assert not gradient[~mask].any()


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_counts(floor: EntropyFloor, masked: bool) -> None:
    logits = random_logits(0, (3 if masked else 0, 2, 5), 1.0)
    found = binary_entropies(logits, 3, floor, torch.zeros(3, dtype=torch.bool) if masked else None)
    assert found.per_sample == 0 and found.batch == 0
    (gradient,) = torch.autograd.grad(found.per_sample - found.batch, logits)
    assert not gradient.any()


def test_many_positions_are_taken_in_blocks() -> None:
    """A batch seen seven times has the entropies of one copy, and a seventh of its gradients."""
    once = random_logits(0, (100, 8, 16), 3.0)
    copies = once.detach().repeat(7, 1, 1).requires_grad_()
    found, expected = binary_entropies(copies, 16), binary_entropies(once, 16)
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth)
        (gradient,) = torch.autograd.grad(value, copies, retain_graph=True)
        (slope,) = torch.autograd.grad(truth, once, retain_graph=True)
        torch.testing.assert_close(7 * gradient.view(7, 100, 8, 16), slope.expand(7, -1, -1, -1), rtol=1e-4, atol=1e-8)


def test_groups_bound_the_joint_entropy() -> None:
    """Maximum 18 log 2 = 12.477 nats; the sharper the bits and the more they are coupled, the looser the bound."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1000, 1, 18, generator=generator) / math.sqrt(18)
    coupled = z + torch.randn(1000, 1, 1, generator=generator) / math.sqrt(18) * 2
    loss = []
    for latents in (z, coupled):
        for sharpness in (1.0, 10.0, 100.0):
            joint, nines, single = (
                binary_entropies(latents * 4 / math.sqrt(18) * sharpness, bits).batch.item() for bits in (18, 9, 1)
            )
            assert joint <= nines + 1e-4 and nines <= single + 1e-4 and single <= 18 * math.log(2) + 1e-4
            loss.append((nines - joint, single - joint))
    assert loss[0][1] < 0.05  # soft and independent: nothing to overlook
    assert loss[2][0] > 1 and loss[5][1] > 5  # 1000 positions cannot fill 2^18 codes; coupled bits least of all
    assert all(sharp[1] > soft[1] for soft, sharp in zip(loss[:3], loss[3:], strict=True))


def test_groups_that_are_independent_over_the_data_are_exact() -> None:
    left, right = random_logits(0, (5, 1, 4), 3.0), random_logits(1, (6, 1, 4), 3.0)
    pairs = torch.cat((left.repeat_interleave(6, 0), right.repeat(5, 1, 1)), dim=-1)  # every left with every right
    joint, groups, single = (binary_entropies(pairs, bits).batch for bits in (8, 4, 1))
    torch.testing.assert_close(joint, groups)
    assert groups < single - 0.01


def test_uniform_bits_reach_the_maximum() -> None:
    """-p log(p + 1e-5) could not: it ends at log 1e5 = 11.5 nats."""
    found = binary_entropies(torch.zeros(3, 1, 18), 18)
    torch.testing.assert_close(found.batch, torch.tensor(18 * math.log(2)))
    torch.testing.assert_close(found.per_sample, torch.tensor(18 * math.log(2)))
    assert binary_entropies(torch.zeros(3, 1, 18), 18, "add").batch < math.log(1e5)


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("scale", [20.0, 400.0, 1e30, torch.inf])
def test_saturated_bits(floor: EntropyFloor, scale: float) -> None:
    logits = torch.randn(50, 1, 10, generator=torch.Generator().manual_seed(0)) * scale
    logits.requires_grad_()
    found = binary_entropies(logits, 10, floor)
    (gradient,) = torch.autograd.grad(found.per_sample - found.batch, logits)
    assert found.per_sample.isfinite() and found.batch.isfinite() and gradient.isfinite().all()
    if scale >= 400:
        codes = (logits[:, 0] > 0).long() @ (1 << torch.arange(10))
        share = codes.bincount().double() / 50
        torch.testing.assert_close(found.batch.double(), torch.special.entr(share).sum(), rtol=0.02, atol=0)


def test_autocast_changes_nothing() -> None:
    logits = random_logits(0, (40, 2, 9), 2.0)
    expected = binary_entropies(logits, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = binary_entropies(logits, 9)
    assert torch.equal(found.per_sample, expected.per_sample) and torch.equal(found.batch, expected.batch)


def test_gradients_of_gradients_are_refused() -> None:
    logits = random_logits(0, (5, 1, 4), 1.0)
    (gradient,) = torch.autograd.grad(binary_entropies(logits, 4).batch, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(gradient.sum(), logits)


def test_softmax_entropies_reward_confidence_and_spread() -> None:
    sharp = softmax_entropies(lambda x: x * 50, torch.eye(8), 8)
    flat = softmax_entropies(lambda x: x * 0, torch.eye(8), 8)
    torch.testing.assert_close(sharp.per_sample, torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(flat.per_sample, torch.tensor(8.0).log())
    torch.testing.assert_close(sharp.batch, torch.tensor(8.0).log(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_entropies_in_blocks(masked: bool) -> None:
    """2^20 codes leave 16 rows to a block."""
    x = random_logits(0, (18, 1), 1.0)
    mask = torch.arange(18) % 5 > 0 if masked else None

    def affinities(rows: Tensor) -> Tensor:
        return rows * slopes

    slopes = torch.linspace(-1, 1, 2**20)
    found = softmax_entropies(affinities, x, 2**20, mask)
    p = affinities(x if mask is None else x[mask]).softmax(-1)
    expected = Entropies(torch.special.entr(p).sum(1).mean(), -(p.mean(0) * (p.mean(0) + 1e-5).log()).sum())
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=0)
