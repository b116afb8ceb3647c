"""GPT: conditions, guidance, what is dropped in training, determinism, refusals."""

from __future__ import annotations

import pytest
import torch

from zoo.generators import GPT, RAR, Generator, GuidanceSchedule, MaskGIT, Stream, Vocabulary
from zoo.spec import TokenizerSpec

PLAIN = Vocabulary([30], 8)


def made(**options: object) -> GPT:
    torch.manual_seed(0)
    return GPT(PLAIN, **{"classes": 5, "width": 48, "depth": 2, "heads": 4, **options}).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_same_codes() -> None:
    model, labels = made(), torch.tensor([0, 4])
    first = model.generate(labels, generator=seeded(), top_k=10, top_p=0.9)
    assert first.shape == (2, 8, 1) and int(first.min()) >= 0 and int(first.max()) < 30
    assert torch.equal(first, model.generate(labels, generator=seeded(), top_k=10, top_p=0.9))
    assert not torch.equal(first, model.generate(labels, generator=seeded(1), top_k=10, top_p=0.9))
    model.train()
    assert torch.equal(first, model.generate(labels, generator=seeded(), top_k=10, top_p=0.9))
    assert model.training, "the mode is given back"


@torch.no_grad()
def test_guidance_is_u_plus_s_times_the_difference() -> None:
    model, label = made(), torch.tensor([3])
    for parameter in model.parameters():
        parameter.mul_(3)
    codes = model.generate(label, guidance=4.0, temperature=0)
    told = model.hidden(codes, model.condition(label, 1))
    free = model.hidden(codes, model.condition(None, 1))
    output = model.head.output
    guided = output(free) + 4.0 * (output(told) - output(free))
    assert torch.equal(guided.argmax(-1), codes[..., 0])
    assert torch.equal(model.generate(label, guidance=1.0, temperature=0), model.generate(label, temperature=0))


@torch.no_grad()
def test_guidance_in_an_interval() -> None:
    """Before the interval the codes are those without guidance; after it, of the prefix that guidance left."""
    model, label = made(), torch.tensor([3])
    for parameter in model.parameters():
        parameter.mul_(4)
    late = model.generate(label, guidance=GuidanceSchedule(6.0, interval=(0.5, 1.0)), temperature=0)
    early = model.generate(label, guidance=GuidanceSchedule(6.0, interval=(0.0, 0.5)), temperature=0)
    assert torch.equal(late[:, :4], model.generate(label, temperature=0)[:, :4])
    assert torch.equal(early[:, :4], model.generate(label, guidance=6.0, temperature=0)[:, :4])
    assert torch.equal(early, model.generate(label, prefix=early[:, :4], temperature=0))


def test_embeddings_as_a_condition() -> None:
    model = made(classes=None, condition_dim=6, condition_tokens=3, condition_dropout=0.5).train()
    condition = torch.randn(4, 3, 6, generator=seeded())
    model.loss(torch.randint(30, (4, 8, 1), generator=seeded()), condition).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    drawn = model.eval().generate(condition, guidance=2.0, generator=seeded())
    assert drawn.shape == (4, 8, 1)
    with pytest.raises(ValueError, match=r"float \(B, 3, 6\) embeddings"):
        model.generate(torch.tensor([1]))


def test_conditions_are_dropped_in_training_alone() -> None:
    model = made(condition_dropout=1.0, dropout=0.0, token_dropout=0.0)
    codes, labels = torch.zeros(2, 8, 1).long(), torch.tensor([1, 4])
    told = model.loss(codes, labels).total
    free = model.loss(codes).total
    assert not torch.equal(told, free)
    assert torch.equal(model.train().loss(codes, labels).total, free)


def test_absent_positions_are_not_learned() -> None:
    """What stands in the positions that an item has is all that counts."""
    model = made()
    codes = torch.randint(30, (1, 8, 1), generator=seeded())
    short = codes.clone()
    short[:, 5:] = -1
    nll, cut = model.loss(codes).nll, model.loss(short).nll
    assert nll is not None and cut is not None
    assert torch.allclose(nll[:, :5], cut[:, :5]) and bool(cut[:, 5:].isnan().all())


def test_vocabulary_of_a_spec_and_back_to_tokens() -> None:
    spec = TokenizerSpec("image", (3, 64, 64), (16,), 4, 64, "raster", any_size=True, downsample=8)
    vocabulary = Vocabulary.of(spec, num_tokens=24, size=(32, 48))
    assert vocabulary.grid == (4, 6) and vocabulary.size == (32, 48)
    indices = torch.zeros(2, 24, 1, dtype=torch.int64)
    tokens = vocabulary.tokens(indices)
    assert tokens.lengths is None and tokens.size is not None and tokens.size.tolist() == [[32, 48]] * 2
    indices[1, 7:] = -1
    cut = vocabulary.tokens(indices)
    assert cut.lengths is not None and cut.lengths.tolist() == [24, 7] and int(cut.indices.min()) == 0


def test_without_classes() -> None:
    model = made(classes=None)
    assert model.generate(count=3, generator=seeded()).shape == (3, 8, 1)
    with pytest.raises(ValueError, match="knows no conditions"):
        model.generate(torch.tensor([1]))
    with pytest.raises(ValueError, match="give a condition"):
        model.generate(count=1, guidance=2.0)


def test_refusals() -> None:
    model = made()
    with pytest.raises(ValueError, match=r"labels lie in \[0, 5\)"):
        model.generate(torch.tensor([5]))
    with pytest.raises(ValueError, match="leave steps=3 out"):
        model.generate(torch.tensor([1]), steps=3)
    with pytest.raises(ValueError, match=r"int64 \(B, 8, 1\)"):
        model.loss(torch.zeros(1, 9, 1).long())
    with pytest.raises(ValueError, match="no codes to generate"):
        Vocabulary([], 4)
    with pytest.raises(ValueError, match="not both"):
        GPT(PLAIN, Stream(), classes=2, condition_dim=3, width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="leave no positions"):
        model.generate(torch.tensor([1]), stop=0)


@pytest.mark.parametrize("kind", [GPT, MaskGIT, RAR])
@pytest.mark.parametrize("temperature", [None, 0.0])
def test_weights_that_are_no_numbers_are_told(kind: type[Generator], temperature: float | None) -> None:
    model = kind(PLAIN, classes=5, width=48, depth=2, heads=4)  # type: ignore[call-arg, arg-type]
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if parameter.ndim == 2).fill_(torch.nan)
    options = {} if temperature is None else {"temperature": temperature}
    with pytest.raises(ValueError, match=f"{kind.__name__} gives NaN or infinity"):
        model.generate(torch.tensor([1, 2]), **options)
