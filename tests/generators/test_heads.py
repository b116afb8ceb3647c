"""Every head: likelihoods are those of its draws, all parameters learn, and a few sequences are learned by heart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantizers import VQ, MultiScaleVQ
from zoo.generators import GPT, Depth, Head, Levels, Shuffle, Stream, Vocabulary

RASTER = Vocabulary([11], 16, grid=[4, 4])
RESIDUAL = Vocabulary([7, 5, 6], 6, "time")
NESTED = Vocabulary([9], 16, "coarse_to_fine")
FLEXIBLE = Vocabulary([9], 8, "coarse_to_fine", flexible=True)
SCALES = Vocabulary([13], 14, "scales", scales=[1, 4, 9])
SNAC = Vocabulary([6], 14, "time", scales=[2, 4, 8], distinct_scales=True)
FSQ = Vocabulary([60], 6)
BRIDGE = Vocabulary([4] * 8, 5)


def var() -> Levels:
    return Levels(quantizer=MultiScaleVQ(VQ(4, 13), [1, 2, 3]))


CASES: dict[str, tuple[Vocabulary, Callable[[], Head], dict]] = {
    "raster": (RASTER, Stream, {}),
    "raster 2d": (RASTER, Stream, {"rotary": "2d"}),
    "flat": (RESIDUAL, Stream, {}),
    "delay": (RESIDUAL, lambda: Stream("delay"), {}),
    "depth": (RESIDUAL, lambda: Depth(depth=2, heads=2), {}),
    "dimensions": (BRIDGE, lambda: Depth(depth=1, heads=2, channels=[3, 1, 0, 2, 7, 6, 5, 4]), {}),
    "shuffle": (RASTER, Shuffle, {"rotary": "2d"}),
    "groups": (NESTED, lambda: Levels([1, 1, 2, 4, 8]), {}),
    "scales": (SCALES, Levels, {}),
    "scales, own inputs": (SCALES, var, {}),
    "distinct scales": (SNAC, Levels, {}),
    "frames": (SNAC, lambda: Stream("frames"), {}),
    "flexible": (FLEXIBLE, Stream, {}),
    "flexible depth": (Vocabulary([5, 4], 6, flexible=True), lambda: Depth(depth=1, heads=2), {}),
    "digits": (FSQ, lambda: Depth(depth=1, heads=2), {"digits": [3, 4, 5]}),
    "flat digits": (FSQ, Stream, {"digits": [3, 4, 5]}),
}


def made(name: str, **options: object) -> GPT:
    vocabulary, head, own = CASES[name]
    torch.manual_seed(0)
    plain = {"width": 32, "depth": 2, "heads": 2, "classes": 4, "dropout": 0.0, "token_dropout": 0.0}
    return GPT(vocabulary, head(), **{**plain, "condition_dropout": 0.0, **own, **options})


def some(vocabulary: Vocabulary, count: int = 4, seed: int = 1) -> Tensor:
    """Codes, of items of several lengths where they may have them."""
    generator = torch.Generator().manual_seed(seed)
    books = [torch.randint(size, (count, vocabulary.num_tokens), generator=generator)
             for size in vocabulary.codebook_sizes]  # fmt: skip
    indices = torch.stack(books, dim=-1)
    if vocabulary.flexible:
        for item in range(count):
            indices[item, vocabulary.num_tokens - item :] = -1
    return indices


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_learns(name: str) -> None:
    model, vocabulary = made(name, condition_dropout=0.5), CASES[name][0]
    losses = model.loss(some(vocabulary), torch.arange(4))
    losses.total.backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still
    assert losses.nll is not None and losses.nll.shape == (4, vocabulary.num_tokens, vocabulary.depth)


@pytest.mark.parametrize("name", CASES)
def test_learned_by_heart_and_given_back(name: str) -> None:
    """Codes of four classes, each of which is its own item."""
    model, indices, labels = made(name), some(CASES[name][0]), torch.arange(4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)
    for _ in range(80):
        loss = model.loss(indices, labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    assert torch.equal(model.generate(labels, temperature=0), indices), loss.item()
    assert torch.equal(model.generate(labels.flip(0), temperature=0, cached=False), indices.flip(0))


@pytest.mark.parametrize("name", CASES)
def test_cache_says_the_same(name: str) -> None:
    """Steps over the cache give the ids of steps that read everything again, with guidance in a part of them."""
    from zoo.generators.schedules import GuidanceSchedule

    model, labels = made(name).eval(), torch.tensor([0, 3])
    for guidance in (None, 2.0, GuidanceSchedule(3.0, interval=(0.0, 0.5))):
        drawn = [
            model.generate(labels, guidance=guidance, cached=cached, generator=torch.Generator().manual_seed(5))
            for cached in (True, False)
        ]
        assert torch.equal(*drawn)


@pytest.mark.parametrize("name", CASES)
def test_goes_on_from_any_prefix(name: str) -> None:
    """What is given stays; given what the model would have drawn itself, it goes on as it would have."""
    model, indices, labels = made(name).eval(), some(CASES[name][0])[:1], torch.tensor([2])
    count = model.vocabulary.num_tokens
    own = model.generate(labels, temperature=0, guidance=1.5)
    for known in {0, 1, 3, count // 2, count - 1, count}:
        again = model.generate(labels, prefix=own[:, :known], temperature=0, guidance=1.5)
        assert torch.equal(again, own), known
        whole = model.generate(labels, prefix=indices[:, :known], temperature=0)
        assert torch.equal(whole[:, :known], indices[:, :known])
        assert torch.equal(whole, model.generate(labels, prefix=indices[:, :known], temperature=0, cached=False))
        stop = min(known + 2, count)
        short = model.generate(labels, prefix=indices[:, :known], temperature=0, stop=stop)
        assert torch.equal(short[:, :stop], whole[:, :stop]) and bool((short[:, stop:] == -1).all())


def test_prefixes_that_are_none() -> None:
    model, labels = made("delay").eval(), torch.tensor([2, 1])
    fine = some(CASES["delay"][0])[:2, :2]
    for prefix in (fine[:1], fine[..., 0], fine.float(), fine + 100, fine - 100, fine.repeat(1, 99, 1)):
        with pytest.raises(ValueError, match="prefix is int64"):
            model.generate(labels, prefix=prefix)
    for stop in (-1, 999):
        with pytest.raises(ValueError, match="stop lies in 0 to"):
            model.generate(labels, stop=stop)


def test_likelihood_is_that_of_the_draws() -> None:
    """The mean likelihood of a model's own draws is its entropy: both are estimated on many items."""
    model = made("depth").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        drawn = model.generate(count=2000, generator=torch.Generator().manual_seed(0))
        nll = model.loss(drawn).nll
    assert nll is not None
    first = torch.bincount(drawn[:, 0, 0], minlength=7) / len(drawn)
    said = torch.tensor([float((-nll[drawn[:, 0, 0] == code, 0, 0]).exp().mean()) for code in range(7)])
    assert torch.allclose(first, said, atol=0.04)


def test_the_end_is_scored_where_it_stands() -> None:
    model, indices = made("flexible").eval(), some(FLEXIBLE)
    nll = model.loss(indices, torch.arange(4)).nll
    assert nll is not None
    scored = ~nll[..., 0].isnan()
    assert scored.sum(1).tolist() == [8, 8, 7, 6]  # an item of all positions has no end to say


def test_refusals() -> None:
    with pytest.raises(ValueError, match="sum to num_tokens"):
        GPT(NESTED, Levels([1, 2]), width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="codes of one codebook on a grid"):
        GPT(RESIDUAL, Shuffle(), width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="in some order"):
        GPT(RESIDUAL, Depth(channels=[0, 1]), width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="order 'flat'"):
        GPT(FLEXIBLE, Stream("delay"), width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="count to 6"):
        GPT(FSQ, digits=[2, 3], width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="the quantizer has scales"):
        GPT(NESTED, Levels([1, 1, 2, 4, 8], MultiScaleVQ(VQ(4, 9), [1, 2])), width=32, depth=1, heads=2)
