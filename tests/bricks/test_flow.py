"""Rectified flow: what training draws, what samplers integrate, what guidance adds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from decoders import AdaptiveProjected, ClassifierFree, RectifiedFlow
from decoders.flow import as_guidance, integrate, time_grid

COUNT = 20_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantiles(times: Tensor, points: int = 9) -> Tensor:
    return times.quantile(torch.linspace(0.1, 0.9, points))


def test_uniform_times() -> None:
    times = RectifiedFlow("uniform").draw_times(COUNT, generator=seeded())
    torch.testing.assert_close(quantiles(times), torch.linspace(0.1, 0.9, 9), atol=0.015, rtol=0)
    assert torch.equal(times, RectifiedFlow("uniform").draw_times(COUNT, generator=seeded()))


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.25, 1.29])
def test_mode_times_follow_the_formula(scale: float) -> None:
    times = RectifiedFlow("mode", mode_scale=scale).draw_times(COUNT, generator=seeded())
    u = torch.linspace(0.9, 0.1, 9)  # t falls with u, so quantile q of t is the formula at 1 - q
    wanted = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(quantiles(times), wanted, atol=0.015, rtol=0)
    assert times.min() >= 0 and times.max() <= 1


def test_logit_normal_times() -> None:
    times = RectifiedFlow("logit_normal", mean=0.5, std=0.8).draw_times(COUNT, generator=seeded())
    logits = torch.logit(times, eps=1e-6)
    assert abs(logits.mean() - 0.5) < 0.02 and abs(logits.std() - 0.8) < 0.02


@pytest.mark.parametrize("kind", ["uniform", "mode", "logit_normal"])
def test_stratified_times_fall_into_every_stratum_in_random_order(kind: str) -> None:
    flow = RectifiedFlow(kind, mode_scale=0.0, stratified=True)  # type: ignore[arg-type]
    times = flow.draw_times(64, generator=seeded())
    shares = torch.special.ndtr(torch.logit(times)) if kind == "logit_normal" else times
    assert sorted((shares * 64).floor().clamp_max(63).int().tolist()) == list(range(64))
    assert not torch.equal(times, times.sort().values)


def test_an_example_lies_on_the_path() -> None:
    flow, clean = RectifiedFlow(), torch.randn(5, 2, 3, 3)
    noised, times, target = flow.draw(clean, generator=seeded())
    assert noised.shape == clean.shape and times.shape == (5,)
    torch.testing.assert_close(flow.clean(target, noised, times), clean)
    torch.testing.assert_close(noised, clean + times.view(5, 1, 1, 1) * target)
    ends = flow.noise(clean, clean + 1, torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5]))
    torch.testing.assert_close(ends.noised[0], clean[0])
    torch.testing.assert_close(ends.noised[1], clean[1] + 1)


def test_a_prediction_of_the_clean_signal_gives_the_same_velocity() -> None:
    flow, clean = RectifiedFlow(prediction="clean"), torch.randn(4, 3)
    example = flow.noise(clean, torch.randn(4, 3), torch.tensor([0.1, 0.4, 0.8, 1.0]))
    torch.testing.assert_close(flow.velocity(clean, example.noised, example.times), example.target)
    assert flow.velocity(clean, clean + 1, 0.0).max() == pytest.approx(1 / flow.floor, rel=1e-5)


def test_loss_is_a_mean_with_weights_per_item() -> None:
    error = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert RectifiedFlow.loss(error, torch.zeros(2, 2)) == 2.5
    assert RectifiedFlow.loss(error, torch.zeros(2, 2), torch.tensor([1.0, 0.0])) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"times": "cosine"}, "times is one of"), ({"mode_scale": 2.0}, "mode_scale lies"), ({"floor": 0.0}, "floor")],
)
def test_wrong_settings_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**arguments)


def test_grid() -> None:
    assert time_grid(1) == (1.0, 0.0) and time_grid(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    for steps in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="at least 1"):
            time_grid(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 3, 25])
def test_straight_paths_need_one_step(method: str, steps: int) -> None:
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    grid = time_grid(steps)
    end = integrate(lambda x, i: noise - clean, noise, grid, method)  # type: ignore[arg-type]
    torch.testing.assert_close(end, clean, atol=1e-5, rtol=0)


def test_order_of_the_samplers() -> None:
    """dx/dt = x from t = 1 to 0 ends at x / e; halving the step divides the error by 2 or, but for the last step, 4."""

    def error(steps: int, method: str) -> float:
        seen = []

        def velocity(x: Tensor, i: int) -> Tensor:
            seen.append(i)
            return x

        end = integrate(velocity, torch.ones(1, dtype=torch.float64), time_grid(steps), method)  # type: ignore[arg-type]
        assert max(seen) < steps and len(seen) == (steps if method == "euler" else 2 * steps - 1)
        return abs(float(end) - math.exp(-1))

    assert error(40, "euler") / error(80, "euler") == pytest.approx(2, rel=0.05)
    assert error(80, "heun") < error(80, "euler") / 20
    assert error(40, "heun") / error(80, "heun") > 3
    with pytest.raises(ValueError, match="euler, heun"):
        integrate(lambda x, i: x, torch.ones(1), (1.0, 0.0), "rk4")  # type: ignore[arg-type]


def test_classifier_free_guidance() -> None:
    c, u = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ClassifierFree(3.0).start()(c, u), u + 3 * (c - u))


def test_projected_guidance_is_short_orthogonal_and_per_item() -> None:
    c, u = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    guided = AdaptiveProjected(4.0).start()(c, u)
    update = (guided - c) / 3
    norms = update.flatten(1).norm(dim=1)
    assert (norms <= 2.5 + 1e-4).all()
    torch.testing.assert_close((update * c).flatten(1).sum(1), torch.zeros(3), atol=1e-4, rtol=0)
    for item in range(3):
        alone = AdaptiveProjected(4.0).start()(c[item : item + 1], u[item : item + 1])
        torch.testing.assert_close(alone[0], guided[item])
    plain = AdaptiveProjected(4.0, momentum=0, threshold=0, eta=1).start()(c, u)
    torch.testing.assert_close(plain, c + 3 * (c - u))


def test_projected_guidance_remembers_one_run_only() -> None:
    c, u = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    guidance = AdaptiveProjected(4.0, threshold=0, eta=1)
    rule = guidance.start()
    first, second = rule(c, u), rule(c, u)
    torch.testing.assert_close(second, c + 3 * 0.5 * (c - u))
    torch.testing.assert_close(guidance.start()(c, u), first)
    still = AdaptiveProjected(4.0).start()(c, c)
    assert torch.equal(still, c)


def test_numbers_become_guidance() -> None:
    assert as_guidance(None) is None and as_guidance(1) is None and as_guidance(ClassifierFree(1.0)) is None
    assert as_guidance(7.5) == AdaptiveProjected(7.5)
    assert as_guidance(ClassifierFree(2.0)) == ClassifierFree(2.0)
    for wrong in ("7.5", True, [1]):
        with pytest.raises(ValueError, match="guidance is a scale"):
            as_guidance(wrong)  # type: ignore[arg-type]
