"""Samplers against plain re-statements, draws against their chances, guidance against the formulas of its papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.generators.sampling import draw, log_probabilities, probabilities, sample, shaped, top_k_cut, top_p_cut
from zoo.generators.schedules import GuidanceSchedule, arccos_ratio, as_schedule, guide, random_order_ratio


def logits_of(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nucleus(logits: np.ndarray, mass: float) -> set[int]:
    """The definition, entry by entry: add the likeliest until they hold `mass`."""
    chances = np.exp(logits.astype(np.float64) - logits.max())
    chances /= chances.sum()
    kept: set[int] = set()
    held = 0.0
    for place in np.argsort(-chances, kind="stable"):
        if kept and held >= mass:
            break
        kept.add(int(place))
        held += chances[place]
    return kept


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 40), mass=st.floats(0.01, 0.99))
def test_top_p_is_the_nucleus(seed: int, size: int, mass: float) -> None:
    logits = logits_of(seed, size)
    kept = set(torch.isfinite(top_p_cut(logits, mass)).nonzero().flatten().tolist())
    assert kept == nucleus(logits.numpy(), mass)


def test_top_p_with_equal_logits_keeps_the_first() -> None:
    assert torch.isfinite(top_p_cut(torch.zeros(1, 8), 0.5))[0].tolist() == [True] * 4 + [False] * 4
    assert torch.equal(top_p_cut(torch.zeros(2, 8), 1.0), torch.zeros(2, 8))


@pytest.mark.parametrize("shape", [(5, 30), (2, 3, 30)])
def test_top_k_keeps_the_largest(shape: tuple[int, ...]) -> None:
    logits = logits_of(0, *shape)
    kept = torch.isfinite(top_k_cut(logits, 7))
    assert (kept.sum(-1) == 7).all()
    assert (logits.masked_fill(~kept, torch.inf).amin(-1) > logits.masked_fill(kept, -torch.inf).amax(-1)).all()
    assert torch.equal(top_k_cut(logits, 30), logits)


def test_temperature_comes_before_the_cuts() -> None:
    logits = logits_of(3, 4, 20)
    assert torch.equal(shaped(logits, 0.7, 9, 0.8), top_p_cut(top_k_cut(logits / 0.7, 9), 0.8))
    assert torch.equal(probabilities(logits, 0.0).argmax(-1), logits.argmax(-1))
    assert torch.equal(sample(logits, temperature=0), logits.argmax(-1))
    assert torch.equal(sample(logits, top_k=1), logits.argmax(-1))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.7}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.9}]
)
def test_draws_have_their_chances(options: dict[str, float]) -> None:
    """Pearson's chi-square of 20000 seeded draws stays below its 99.9 % point."""
    logits, count = logits_of(7, 12), 20_000
    ids = sample(logits.expand(count, 12), **options, generator=torch.Generator().manual_seed(0))
    chances = probabilities(logits, **options)
    observed = torch.bincount(ids, minlength=12).double()
    assert observed[chances == 0].sum() == 0
    expected = count * chances[chances > 0].double()
    statistic = ((observed[chances > 0] - expected).square() / expected).sum().item()
    freedom = int((chances > 0).sum()) - 1
    assert statistic < freedom + 3.3 * math.sqrt(2 * freedom) + 5


def test_draw_takes_a_seed_and_never_an_impossible_id() -> None:
    chances = torch.tensor([0.0, 1e-30, 0.0, 2.0, 0.0]).expand(4096, 5)
    first = draw(chances, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, draw(chances, generator=torch.Generator().manual_seed(5)))
    assert (first == 3).all()
    assert draw(torch.ones(2, 3, 4)).shape == (2, 3)


def test_log_probabilities_of_ids() -> None:
    logits = logits_of(1, 2, 3, 9)
    ids = torch.tensor([[0, 8, 4], [1, 1, 2]])
    expected = logits.double().softmax(-1).log()
    assert torch.allclose(log_probabilities(logits, ids).double(), expected.gather(-1, ids[..., None])[..., 0])


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_options_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        sample(torch.zeros(1, 4), **bad)


def test_guidance_follows_its_papers() -> None:
    conditional, unconditional = logits_of(1, 2, 5), logits_of(2, 2, 5)
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional)
    assert torch.allclose(guide(conditional, unconditional, 4.0), conditional + 3 * (conditional - unconditional))
    rar = GuidanceSchedule(16.0, "power_cosine", power=2.75)
    for step in (0, 1, 100, 255):
        expected = (16 - 1) * (1 - math.cos(math.pi * (step / 256) ** 2.75)) / 2 + 1
        assert rar.at(step / 256) == pytest.approx(expected, rel=1e-12)
    mar = GuidanceSchedule(4.0, "linear")
    assert [mar.at(known / 4) for known in range(5)] == [1.0, 1.75, 2.5, 3.25, 4.0]
    cosine = GuidanceSchedule(3.0, "cosine")
    assert [cosine.at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 2.0, 3.0])


def test_guidance_acts_in_its_interval_only() -> None:
    late = GuidanceSchedule(2.0, interval=(0.25, 1.0))
    assert [late.at(p) for p in (0.0, 0.2, 0.25, 1.0)] == [1.0, 1.0, 2.0, 2.0]
    early = GuidanceSchedule(2.0, interval=(0.0, 0.5))
    assert [early.at(p) for p in (0.0, 0.5, 1.0)] == [2.0, 1.0, 1.0]


def test_guidance_may_be_a_number_or_nothing() -> None:
    assert as_schedule(None) is None
    assert as_schedule(1) is None
    assert as_schedule(3) == GuidanceSchedule(3.0)
    with pytest.raises(ValueError, match="GuidanceSchedule"):
        as_schedule("strong")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interval"):
        GuidanceSchedule(2.0, interval=(0.6, 0.5))
    with pytest.raises(ValueError, match="power_cosine"):
        GuidanceSchedule(2.0, "sudden")  # type: ignore[arg-type]


def test_schedules_of_masks_and_orders() -> None:
    assert arccos_ratio(0.0) == pytest.approx(1.0)
    assert arccos_ratio(1.0) == 0.0
    assert arccos_ratio(math.cos(math.pi / 8)) == pytest.approx(0.25)
    assert [random_order_ratio(step, 200, 300) for step in (0, 200, 250, 300, 400)] == [1.0, 1.0, 0.5, 0.0, 0.0]
