"""Search: finds a known optimum, and steers a real tokenizer's prefixes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo
from zoo.generators import GPT, RAR, MaskGIT, Vocabulary
from zoo.generators.search import beam_search, best_of, geometric
from zoo.tokens import Tokens

CODES, TOKENS = 4, 8
TARGETS = torch.tensor([[3, 0, 1, 2, 2, 3, 0, 1], [1, 1, 2, 0, 3, 3, 2, 0]])


class Shown:
    """A tokenizer whose pictures are the codes; beginnings are filled up with -1."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def decode(self, tokens: Tokens) -> Tensor:
        self.lengths.append(tokens.num_tokens)
        codes = tokens.indices[..., 0]
        return torch.nn.functional.pad(codes, (0, TOKENS - codes.shape[1]), value=-1)


def matches(shown: Tensor, labels: Tensor | None) -> Tensor:
    """How many codes are those of the target of a class; a code's weight halves with its place."""
    targets = TARGETS[0].expand(len(shown), -1) if labels is None else TARGETS[labels]
    return ((shown == targets) * 0.5 ** torch.arange(TOKENS)).sum(1)


def model_of() -> RAR:
    torch.manual_seed(0)
    vocabulary = Vocabulary([CODES], TOKENS, "coarse_to_fine")
    return RAR(vocabulary, 2, width=16, depth=1, heads=2, hidden=16)


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_prefixes_double() -> None:
    assert geometric(256) == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert geometric(6) == (1, 2, 4, 6)
    assert geometric(1) == (1,)


def test_beam_search_finds_the_optimum() -> None:
    tokenizer, labels = Shown(), torch.tensor([0, 1])
    every = tuple(range(1, TOKENS + 1))
    found = beam_search(model_of(), tokenizer, matches, labels, candidates=16, lengths=every, generator=seed())
    assert torch.equal(found.indices[..., 0], TARGETS)
    torch.testing.assert_close(found.scores, torch.full((2,), 2 - 0.5 ** (TOKENS - 1)))
    assert set(tokenizer.lengths) == set(every)
    assert found.history.shape == (TOKENS, 2)
    assert (found.history.diff(dim=0) > 0).all()
    assert found.decoded == 2 * 5 * 16 * TOKENS


def test_beam_search_beats_as_many_independent_draws() -> None:
    model, labels = model_of(), torch.tensor([0, 1])
    every = tuple(range(1, TOKENS + 1))
    beam = beam_search(model, Shown(), matches, labels, beams=4, candidates=8, lengths=every, generator=seed())
    best = best_of(model, Shown(), matches, labels, candidates=beam.decoded // 2, generator=seed())
    assert best.decoded == beam.decoded
    assert beam.scores.mean() > best.scores.mean()


def test_best_of_is_the_best_of_its_draws() -> None:
    model, labels = model_of(), torch.tensor([1, 0, 1])
    found = best_of(model, Shown(), matches, labels, candidates=6, batch_size=18, generator=seed(3))
    drawn = model.generate(labels.repeat_interleave(6), generator=seed(3))
    scores = matches(drawn[..., 0], labels.repeat_interleave(6)).view(3, 6)
    assert torch.equal(found.scores, scores.amax(1))
    rows = torch.arange(3) * 6 + scores.argmax(1)
    assert torch.equal(found.indices, drawn[rows])
    assert torch.equal(matches(found.indices[..., 0], labels), found.scores)


def test_lookahead_judges_longer_beginnings() -> None:
    tokenizer = Shown()
    found = beam_search(
        model_of(), tokenizer, matches, beams=2, candidates=2, lookahead=3, count=2, batch_size=3, generator=seed()
    )
    assert set(tokenizer.lengths) == {4, 5, 7, 8}
    assert found.indices.shape == (2, TOKENS, 1)
    assert torch.equal(matches(found.indices[..., 0], None), found.scores)


@pytest.mark.parametrize("flexible", [False, True])
def test_beams_of_a_gpt(flexible: bool) -> None:
    """Also where items may end early: what is absent stays so."""
    torch.manual_seed(0)
    vocabulary = Vocabulary([CODES], TOKENS, "coarse_to_fine", flexible=flexible)
    model = GPT(vocabulary, classes=2, width=16, depth=1, heads=2).eval()
    labels = torch.tensor([0, 1])
    found = beam_search(model, Shown(), matches, labels, beams=3, candidates=8, generator=seed())
    assert found.indices.shape == (2, TOKENS, 1)
    absent = found.indices[..., 0] == -1
    assert torch.equal(absent.cummax(1).values, absent) and (flexible or not absent.any())
    assert (found.scores > 1.5).all()


def test_best_of_takes_any_generator() -> None:
    torch.manual_seed(0)
    model = MaskGIT(Vocabulary([CODES], TOKENS), 2, width=16, depth=1, heads=2, hidden=16)
    found = best_of(model, Shown(), matches, torch.tensor([0]), candidates=3, steps=2)
    assert found.indices.shape == (1, TOKENS, 1)


def test_prefixes_of_a_real_tokenizer_are_steered() -> None:
    """Drawn at random, the search makes the picture bright; whole pictures confirm what beginnings promised."""
    tokenizer = zoo.load("onedpiece_tiny_128")
    torch.manual_seed(0)
    sizes = tokenizer.spec.codebook_sizes
    model = RAR(Vocabulary(sizes, 8, "coarse_to_fine", size=(128, 128)), width=8, depth=1, heads=1, hidden=8)

    def brightness(pictures: Tensor, _: Tensor | None) -> Tensor:
        return pictures.clamp(-1, 1).mean((1, 2, 3))

    options = {"beams": 2, "candidates": 3, "lengths": (1, 4, 8)}
    found = beam_search(model, tokenizer, brightness, generator=seed(), **options)
    plain = model.generate(count=4, generator=seed())
    with torch.no_grad():
        shown = brightness(tokenizer.decode(model.vocabulary.tokens(torch.cat([found.indices, plain]))), None)
    assert shown[0] == pytest.approx(found.scores[0].item(), abs=1e-4)
    assert shown[0] > shown[1:].max()


def test_what_does_not_fit_is_named() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="lengths rise"):
        beam_search(model, Shown(), matches, lengths=(4, 2, 8))
    with pytest.raises(ValueError, match="candidates"):
        best_of(model, Shown(), matches, candidates=0)
    with pytest.raises(ValueError, match="scores"):
        best_of(model, Shown(), lambda shown, _: shown.sum(), candidates=2)
    grid = RAR(Vocabulary([CODES], TOKENS), width=16, depth=1, heads=2, hidden=16)
    with pytest.raises(ValueError, match="coarse_to_fine"):
        beam_search(grid, Shown(), matches)
