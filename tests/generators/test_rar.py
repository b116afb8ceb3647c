"""RAR: random orders that fade, a cache that changes nothing, guidance at every token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.generators import RAR, GuidanceSchedule, Vocabulary
from zoo.generators.sampling import sample
from zoo.generators.schedules import guide

CODES, TOKENS, CLASSES = 20, 9, 5


def model_of(**options: object) -> RAR:
    """Random weights everywhere: as built, nothing depends on the condition."""
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "hidden": 32} | options
    model = RAR(Vocabulary([CODES], TOKENS), CLASSES, **sizes)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, CODES, (count, TOKENS, 1), generator=generator)
    return codes, torch.randint(0, CLASSES, (count,), generator=generator)


def test_two_steps_reach_every_parameter_and_lower_the_loss() -> None:
    model = model_of().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    codes, labels = batch(16)
    before = model.eval().loss(codes, labels).total.item()
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(codes, labels, generator=torch.Generator().manual_seed(3)).total.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
    assert model.eval().loss(codes, labels).total.item() < before


def test_as_built_every_block_is_the_identity() -> None:
    model = RAR(Vocabulary([CODES], TOKENS), CLASSES, width=16, depth=2, heads=2, hidden=32).eval()
    x = torch.randn(2, 4, 16)
    assert torch.equal(model.blocks[0](x, torch.randn(2, 4, 16)), x)


def test_likelihood_is_that_of_raster_order_outside_training() -> None:
    model, (codes, labels) = model_of().eval(), batch()
    losses = model.loss(codes, labels)
    logits = model.logits(codes[..., 0], model.class_ids(labels))[:, :-1]
    expected = F.cross_entropy(logits.transpose(1, 2), codes[..., 0], reduction="none")
    assert losses.nll is not None
    torch.testing.assert_close(losses.nll[..., 0], expected)
    torch.testing.assert_close(losses.total, expected.mean())


def test_random_orders_fade() -> None:
    model = model_of(random_steps=(10, 20), dropout=0.0, class_dropout=0.0).train()
    codes, labels = batch(64)
    raster = model.eval().loss(codes, labels)
    model.train()
    same: list[float] = []
    for step in (0, 15, 20):
        model.at_step(step, 100)
        losses = model.loss(codes, labels, generator=torch.Generator().manual_seed(0))
        assert losses.nll is not None and raster.nll is not None
        same.append(torch.isclose(losses.nll, raster.nll).all(1).float().mean().item())
    assert same[0] == 0.0 and 0.3 < same[1] < 0.7 and same[2] == 1.0


def test_random_orders_fade_over_the_third_quarter_unless_told() -> None:
    model, shares = model_of(), []
    for step in (0, 200, 250, 300, 399):
        model.at_step(step, 400)
        shares.append(model.random_share)
    assert shares == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_likelihood_in_random_order_stands_in_place() -> None:
    """The n-th place holds what was paid for the code there, whenever it was read."""
    model = model_of(dropout=0.0, class_dropout=0.0).train()
    codes, labels = batch(2)
    losses = model.loss(codes, labels, generator=torch.Generator().manual_seed(4))
    orders = torch.rand(2, TOKENS, generator=torch.Generator().manual_seed(4)).argsort(-1)
    read = codes[..., 0].gather(1, orders)
    logits = model.logits(read[:, :-1], model.class_ids(labels), orders)
    for item in range(2):
        for number, place in enumerate(orders[item].tolist()):
            paid = -logits[item, number].log_softmax(-1)[read[item, number]]
            assert losses.nll is not None
            torch.testing.assert_close(losses.nll[item, place, 0], paid.detach())


def test_cache_changes_nothing() -> None:
    """Token by token, in chunks and after a step back, as the whole sequence says."""
    model, (codes, labels) = model_of().eval(), batch()
    ids = codes[..., 0]
    whole = model.logits(ids, model.class_ids(labels))
    stepper = model.stepper(labels)
    torch.testing.assert_close(stepper.first, whole[:, 0])
    torch.testing.assert_close(stepper.extend(ids[:, :3]), whole[:, 1:4])
    torch.testing.assert_close(stepper.extend(ids[:, 3:4]), whole[:, 4:5])
    stepper.extend(19 - ids[:, 4:8])
    stepper.rewind(4)
    torch.testing.assert_close(stepper.extend(ids[:, 4:8]), whole[:, 5:9])
    with pytest.raises(ValueError, match="cannot go back"):
        stepper.rewind(9)


def test_generation_equals_a_loop_without_cache() -> None:
    model, (_, labels) = model_of(dropout=0.0).eval(), batch()
    schedule = GuidanceSchedule(4.0, "power_cosine", power=1.5)
    drawn = model.generate(labels, guidance=schedule, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    ids = torch.empty(4, 0, dtype=torch.int64)
    for number in range(TOKENS):
        told = model.logits(ids, model.class_ids(labels))[:, -1]
        free = model.logits(ids, model.class_ids(None, 4))[:, -1]
        new = sample(guide(told, free, schedule.at(number / TOKENS)), generator=generator)
        ids = torch.cat([ids, new[:, None]], dim=1)
    assert torch.equal(drawn[..., 0], ids)


def test_prefix_and_stop() -> None:
    model, (codes, labels) = model_of(), batch()
    drawn = model.generate(labels, prefix=codes[:, :4], stop=6)
    assert torch.equal(drawn[:, :4], codes[:, :4])
    assert (drawn[:, 4:6] >= 0).all() and (drawn[:, 6:] == -1).all()
    assert model.training


def test_what_does_not_fit_is_named() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="one pass"):
        model.generate(count=1, steps=3)
    with pytest.raises(ValueError, match="random_steps"):
        model_of(random_steps=(5, 2))
    with pytest.raises(ValueError, match="2 codebooks"):
        RAR(Vocabulary([8, 8], 4))
