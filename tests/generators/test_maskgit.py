"""MaskGIT: what it learns from, how it fills masks, in which order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.generators import GuidanceSchedule, MaskGIT, Vocabulary
from zoo.generators.unmasking import by_confidence, halton_order, in_order, masked_after

CODES, TOKENS, CLASSES = 20, 12, 5


def model_of(network: str = "vit", **options: object) -> MaskGIT:
    torch.manual_seed(0)
    vocabulary = Vocabulary([CODES], TOKENS, grid=[3, 4])
    sizes = {"width": 16, "depth": 2, "heads": 2, "hidden": 32} | options
    return MaskGIT(vocabulary, CLASSES, network=network, **sizes)  # type: ignore[arg-type]


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, CODES, (count, TOKENS, 1), generator=generator)
    return codes, torch.randint(0, CLASSES, (count,), generator=generator)


@pytest.mark.parametrize("network", ["vit", "uvit"])
def test_two_steps_reach_every_parameter_and_lower_the_loss(network: str) -> None:
    model = model_of(network).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    codes, labels = batch(16)
    model.eval()
    before = model.loss(codes, labels).total.item()
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(codes, labels, generator=torch.Generator().manual_seed(3)).total.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
    assert model.eval().loss(codes, labels).total.item() < before


def test_loss_weighs_hidden_and_known_tokens() -> None:
    """Against a re-statement with the masks that the same seed draws."""
    model = model_of(dropout=0.0, class_dropout=0.0).train()
    codes, labels = batch()
    losses = model.loss(codes, labels, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    share = torch.acos(torch.rand(4, generator=generator)) / (math.pi / 2)
    hidden = torch.rand(4, TOKENS, generator=generator).argsort(-1) < (share * TOKENS).round().clamp_min(1)[:, None]
    flat = codes[..., 0]
    logits = model.logits(torch.where(hidden, CODES, flat), labels + CODES + 1).log_softmax(-1)
    of_code = -logits.gather(-1, flat[..., None])[..., 0]
    smooth = 0.9 * of_code - 0.1 * logits.mean(-1)
    weights = hidden + 0.1 * ~hidden
    torch.testing.assert_close(losses.total, (smooth * weights).sum() / weights.sum())
    torch.testing.assert_close(losses.parts["masked_nll"], of_code[hidden].mean())


def test_loss_is_repeatable_outside_training() -> None:
    model, (codes, labels) = model_of().eval(), batch()
    assert torch.equal(model.loss(codes, labels).total, model.loss(codes, labels).total)


def test_classes_are_dropped_in_training_only() -> None:
    model = model_of(class_dropout=0.5).train()
    ids = model.class_ids(torch.zeros(1000, dtype=torch.int64))
    dropped = model.drop_classes(ids, torch.Generator().manual_seed(0)) == model.none_id
    assert 400 < dropped.sum() < 600
    assert torch.equal(model.eval().drop_classes(ids), ids)


@pytest.mark.parametrize("network", ["vit", "uvit"])
@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_generation_is_seeded_and_made_of_codes(network: str, order: str) -> None:
    model, labels = model_of(network), torch.tensor([0, 4, 2])

    def drawn(seed: int, **options: object) -> Tensor:
        return model.generate(
            labels,
            order=order,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(seed),
            **options,  # type: ignore[arg-type]
        )

    first = drawn(0, guidance=2.0, steps=4)
    assert first.shape == (3, TOKENS, 1)
    assert first.min() >= 0 and first.max() < CODES
    assert torch.equal(first, drawn(0, guidance=2.0, steps=4))
    assert not torch.equal(first, drawn(1, guidance=2.0, steps=4))
    assert model.training
    assert drawn(0, steps=20, top_k=3, top_p=0.9).max() < CODES


def test_known_tokens_stay() -> None:
    model = model_of()
    known = torch.full((2, TOKENS, 1), -1)
    known[:, 3:7] = torch.arange(4)[:, None]
    for order in ("confidence", "halton"):
        filled = model.generate(torch.tensor([1, 2]), known=known, order=order, steps=3)  # type: ignore[arg-type]
        assert torch.equal(filled[:, 3:7], known[:, 3:7])
        assert (filled >= 0).all() and (filled < CODES).all()


def test_items_without_a_class() -> None:
    assert model_of().generate(count=2, steps=2).shape == (2, TOKENS, 1)
    unconditional = MaskGIT(Vocabulary([CODES], TOKENS), width=16, depth=2, heads=2, hidden=32)
    assert unconditional.generate(count=2, steps=2).shape == (2, TOKENS, 1)


def recorder(calls: list[Tensor]):  # type: ignore[no-untyped-def]
    """A network whose logits say code 1 everywhere, surer to the right."""

    def predict(ids: Tensor, progress: float) -> Tensor:
        calls.append(ids)
        logits = torch.zeros(*ids.shape, 4)
        logits[..., 1] = 1 + torch.arange(ids.shape[1])
        return logits

    return predict


def test_confidence_uncovers_the_surest_by_the_arccos_schedule() -> None:
    calls: list[Tensor] = []
    masks = torch.full((2, 16), 9)
    filled = by_confidence(recorder(calls), masks, 9, steps=8, temperature=0.0)
    assert (filled == 1).all()
    left = [16, *(math.floor(16 * math.acos(step / 8) / (math.pi / 2)) for step in range(1, 8))]
    assert [int((ids[0] == 9).sum()) for ids in calls] == left
    assert all(ids[0].argsort(stable=True).tolist() == ids[0].argsort().tolist() for ids in calls)
    assert all((ids[:, : int((ids[0] == 9).sum())] == 9).all() for ids in calls)


def test_order_uncovers_as_many_by_its_own_order() -> None:
    calls: list[Tensor] = []
    order = torch.tensor([5, 2, 0, 1, 4, 3, 7, 6])
    filled = in_order(recorder(calls), torch.full((1, 8), 9), 9, order, steps=4, temperature=0.0)
    assert (filled == 1).all()
    for step, ids in enumerate(calls):
        known = 0 if step == 0 else 8 - masked_after(step - 1, 4, 8)
        assert set((ids[0] != 9).nonzero().flatten().tolist()) == set(order[:known].tolist())


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (16, 16), (3, 7)])
def test_halton_order_is_a_permutation(grid: tuple[int, int]) -> None:
    order = halton_order(*grid)
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1]))


def test_halton_order_spreads() -> None:
    """The first points of the sequence: 1/2, 1/3; 1/4, 2/3; 3/4, 1/9; and quarters of a grid fill evenly."""
    assert halton_order(16, 16)[:3].tolist() == [8 * 16 + 5, 4 * 16 + 10, 12 * 16 + 1]
    first = halton_order(16, 16)[:64]
    quarters = (first // 16 // 8) * 2 + (first % 16) // 8
    assert torch.bincount(quarters).tolist() == pytest.approx([16] * 4, abs=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.loss(torch.zeros(2, 3, 1, dtype=torch.int64)), "expects indices"),
        (lambda model: model.loss(torch.full((2, TOKENS, 1), -1)), "absent"),
        (lambda model: model.generate(torch.tensor([CLASSES])), "classes 0 to 4"),
        (lambda model: model.generate(torch.zeros(2, 3)), "expects labels"),
        (lambda model: model.generate(), "count"),
        (lambda model: model.generate(count=1, steps=0), "steps"),
        (lambda model: model.generate(count=1, order="spiral"), "confidence, halton"),
        (lambda _: MaskGIT(Vocabulary([8, 8], 4)), "2 codebooks"),
        (lambda _: MaskGIT(Vocabulary([8], 4), network="cnn"), "vit, uvit"),  # type: ignore[arg-type]
        (lambda _: MaskGIT(Vocabulary([8], 4), width=15), "multiple of heads"),
        (lambda _: MaskGIT(Vocabulary([8], 4), network="uvit", depth=3), "depth=3"),
    ],
)
def test_what_does_not_fit_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(model_of())


def test_no_grid_no_halton() -> None:
    with pytest.raises(ValueError, match="grid"):
        MaskGIT(Vocabulary([8], 4), width=16, depth=1, heads=2, hidden=16).generate(count=1, order="halton")


def test_recipe_s_own_guidance_is_used() -> None:
    model, labels = model_of(guidance=GuidanceSchedule(9.0), temperature=0.0), torch.tensor([3])
    assert torch.equal(model.generate(labels), model.generate(labels, guidance=9.0, temperature=0.0))
    assert torch.equal(model.generate(labels, guidance=1.0), model_of(temperature=0.0).generate(labels))
