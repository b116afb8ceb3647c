"""Codes as a language: against scipy, simulated samples, brute force over orders, and known answers."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.metrics import CodeInnovation, CodeNgrams, CodePairs, CodePositions, zipf_exponent, zipf_tail
from zoo.metrics.relations import rank_correlation
from zoo.tokens import Tokens


def tokens_of(indices: object, entries: int, **more: object) -> Tokens:
    codes = torch.as_tensor(indices)
    return Tokens(codes if codes.ndim == 3 else codes[..., None], (entries,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.5])
def test_exponent_of_a_simulated_sample(exponent: float) -> None:
    """200 000 codes of 2000 under Zipf's law: found to 0.03."""
    share = np.arange(1, 2001) ** -exponent
    codes = np.random.default_rng(0).choice(2000, 200_000, p=share / share.sum())
    counts = torch.bincount(torch.from_numpy(codes), minlength=2000)
    assert zipf_exponent(counts) == pytest.approx(exponent, abs=0.03)
    shuffled = counts[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    assert zipf_exponent(shuffled) == pytest.approx(zipf_exponent(counts), abs=1e-5)


@pytest.mark.parametrize("exponent", [1.8, 2.5, 3.0])
def test_tail_against_scipy(exponent: float) -> None:
    """20 000 counts drawn by scipy.stats.zipf: the exponent to 0.03, its maximum to scipy's within 0.002."""
    counts = stats.zipf(exponent).rvs(20_000, random_state=0)
    fit = zipf_tail(torch.from_numpy(counts), start=1)
    assert fit.exponent == pytest.approx(exponent, abs=0.03) and fit.share == 1
    grid = np.arange(exponent - 0.1, exponent + 0.1, 0.002)
    best = grid[np.argmax([stats.zipf(value).logpmf(counts).sum() for value in grid])]
    assert fit.exponent == pytest.approx(best, abs=0.002)
    chosen = zipf_tail(torch.from_numpy(counts))
    assert chosen.distance <= fit.distance + 1e-9 and chosen.exponent == pytest.approx(exponent, abs=0.25)


def test_tail_finds_where_the_law_begins() -> None:
    """Below 20 the counts are uniform; the rule starts the tail near there."""
    generator = np.random.default_rng(1)
    tail = np.floor(19.5 * (1 - generator.random(6000)) ** (-1 / 1.5) + 0.5).astype(np.int64)
    counts = torch.from_numpy(np.concatenate([generator.integers(1, 20, 6000), tail]))
    fit = zipf_tail(counts)
    assert 14 <= fit.start <= 30 and fit.exponent == pytest.approx(2.5, abs=0.15)


def test_too_little_to_fit() -> None:
    assert math.isnan(zipf_exponent(torch.tensor([9, 9, 1, 1])))
    assert math.isnan(zipf_tail(torch.tensor([3, 3, 3])).exponent)
    assert math.isnan(zipf_tail(torch.tensor([7] * 50), start=7).exponent)


def test_ngrams_by_counter() -> None:
    generator = torch.Generator().manual_seed(0)
    indices, lengths = torch.randint(3, (20, 9), generator=generator), torch.randint(1, 10, (20,), generator=generator)
    metric = CodeNgrams((3,), orders=3)
    metric.update(tokens_of(indices, 3, lengths=lengths))
    found = metric.compute()
    before = 0.0
    for order in (1, 2, 3):
        runs = Counter(
            tuple(row[start : start + order])
            for row, length in zip(indices.tolist(), lengths.tolist(), strict=True)
            for start in range(length - order + 1)
        )
        share = np.array(list(runs.values())) / runs.total()
        plugin = -(share * np.log2(share)).sum()
        assert found[f"plugin_{order}"] == pytest.approx(plugin, rel=1e-12)
        corrected = plugin + (len(runs) - 1) / (2 * runs.total() * math.log(2))
        assert found[f"h_{order}"] == pytest.approx(min(corrected, math.log2(3)) if order == 1 else corrected)
        assert found[f"rate_{order}"] == pytest.approx(found[f"h_{order}"] - before)
        assert (found[f"types_{order}"], found[f"positions_{order}"]) == (len(runs), runs.total())
        before = found[f"h_{order}"]
        rows, counts = metric.ranked(order)
        assert {tuple(row): count for row, count in zip(rows.tolist(), counts.tolist(), strict=True)} == runs
        assert found[f"ranks_{order}"][0][0] == (1, max(runs.values()))


def test_entropy_rate_of_a_markov_chain() -> None:
    """A code that stays with probability 0.9 carries H(0.1) = 0.469 bits once the one before is known."""
    generator = torch.Generator().manual_seed(0)
    flips = torch.rand(200, 500, generator=generator) < 0.1
    metric = CodeNgrams((2,), orders=3)
    metric.update(tokens_of(flips.cumsum(1) % 2, 2))
    found = metric.compute()
    expected = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert found["h_1"] == pytest.approx(1, abs=0.01)
    assert found["rate_2"] == pytest.approx(expected, abs=0.01) and found["rate_3"] == pytest.approx(expected, abs=0.01)


def test_entropies_of_runs_that_hardly_repeat_are_not_given() -> None:
    metric = CodeNgrams((50,), orders=2)
    metric.update(tokens_of(torch.randint(50, (4, 100), generator=torch.Generator().manual_seed(0)), 50))
    found = metric.compute()
    assert found["coverage_1"] > 0.9 and math.isfinite(found["h_1"])
    assert found["coverage_2"] < 0.5 and math.isnan(found["h_2"]) and math.isnan(found["rate_2"])
    assert math.isfinite(found["plugin_2"])


def test_runs_do_not_cross_scales() -> None:
    metric = CodeNgrams((9,), orders=2)
    metric.update(tokens_of([[1, 2, 3, 4, 5, 6]], 9, scales=(1, 2, 3), order="scales"))
    assert metric.ranked(2)[0].tolist() == [[2, 3], [4, 5], [5, 6]]


def test_innovation_is_the_mean_over_all_orders() -> None:
    items = [[0, 0, 1], [1, 2, 2], [3, 3, 3], [0, 4, 1], [2, 1, 0]]
    metric = CodeInnovation((5,))
    metric.update(tokens_of(items[:2], 5))
    metric.update(tokens_of(items[2:], 5))
    orders = list(permutations(items))
    for count in range(6):
        seen = [len({code for item in order[:count] for code in item}) for order in orders]
        assert metric.distinct(count) == pytest.approx(sum(seen) / len(seen), rel=1e-9)
    found = metric.compute()
    assert found["first"] == pytest.approx((2 + 2 + 1 + 3 + 3) / 5) and found["distinct"] == 5
    assert found["items"] == 5 and math.isnan(found["hundredth"])


def test_heaps_exponent_of_known_sets() -> None:
    """Items that share nothing give 1, items that are alike 0."""
    new, same = CodeInnovation((1000,)), CodeInnovation((1000,))
    new.update(tokens_of(torch.arange(800).view(200, 4), 1000))
    same.update(tokens_of(torch.arange(4).expand(200, 4), 1000))
    assert new.compute()["heaps"] == pytest.approx(1, abs=1e-6)
    assert new.compute()["hundredth"] == pytest.approx(4) and new.compute()["share_100"] == pytest.approx(0.5)
    assert same.compute()["heaps"] == pytest.approx(0, abs=1e-6) and same.compute()["last"] == pytest.approx(0)


def test_pairs_in_a_grid() -> None:
    """Neighbours of a grid of 2 x 3, beside and below each other, by hand."""
    metric = CodePairs((9,), downsample=8)
    metric.update(tokens_of([[0, 1, 2, 3, 4, 5]], 9, size=torch.tensor([[16, 20]])))
    assert metric.compute()["pairs"] == 4 + 3
    pairs = {tuple(row[1:3]) for row in metric.table("pairs").tolist()}
    assert pairs == {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}
    line = CodePairs((9,))
    line.update(tokens_of([[0, 1, 2, 3, 4, 5]], 9, lengths=torch.tensor([3])))
    assert line.compute()["pairs"] == 2


def test_information_of_neighbours() -> None:
    """Codes that follow from the one before tell all of it, independent ones nothing."""
    ring = (torch.arange(400)[None] + torch.arange(50)[:, None]) % 8
    metric = CodePairs((8,))
    metric.update(tokens_of(ring, 8))
    assert metric.compute()["information"] == pytest.approx(3, abs=0.01)
    top = metric.top(3)
    assert top[0]["pmi"] == pytest.approx(3, abs=0.01) and (top[0]["codes"][0] + 1) % 8 == top[0]["codes"][1]
    free = CodePairs((64,))
    free.update(tokens_of(torch.randint(64, (50, 400), generator=torch.Generator().manual_seed(0)), 64))
    found = free.compute()
    assert found["plugin"] > 0.1 and found["information"] < 0.005


def test_few_pairs_of_many_codes_tell_little() -> None:
    """Independent pairs, of which hardly one comes twice, seem to tell nearly all of each other."""
    metric = CodePairs((1000,))
    metric.update(tokens_of(torch.randint(1000, (20, 100), generator=torch.Generator().manual_seed(0)), 1000))
    found = metric.compute()
    assert found["plugin"] > 7 and found["information"] < 0.02


def test_pmi_by_hand() -> None:
    metric = CodePairs((4,))
    metric.update(tokens_of([[0, 1]] * 6 + [[2, 3]] * 2, 4))
    values = {tuple(pair["codes"]): pair["pmi"] for pair in metric.top(least=1)}
    assert values == {(0, 1): pytest.approx(math.log2(8 / 6)), (2, 3): pytest.approx(2)}
    assert [pair["codes"] for pair in metric.top(least=5)] == [[0, 1]]


def test_positions_of_nested_codes() -> None:
    """Position p draws from 2^(6 - p) codes: its entropy falls by a bit a position."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randint(2 ** (6 - place), (4000,), generator=generator) for place in range(6)], dim=1)
    metric = CodePositions((64,))
    metric.update(tokens_of(indices, 64, order="coarse_to_fine"))
    found = metric.compute()
    places, bits, counts = metric.entropies()
    assert places.tolist() == list(range(6)) and counts.tolist() == [4000] * 6
    np.testing.assert_allclose(bits, [6, 5, 4, 3, 2, 1], atol=0.01)
    assert found["trend"] == pytest.approx(-1)
    assert (found["first"], found["last"]) == (pytest.approx(6, abs=0.01), pytest.approx(1, abs=0.01))
    marginal = np.bincount(indices.flatten().numpy()) / indices.numel()
    expected = -(marginal * np.log2(marginal)).sum() - 3.5
    assert found["information"] == pytest.approx(expected, abs=0.01)


def test_positions_of_a_grid_tell_nothing() -> None:
    metric = CodePositions((16,))
    metric.update(tokens_of(torch.randint(16, (3000, 8), generator=torch.Generator().manual_seed(0)), 16))
    assert metric.compute()["information"] < 0.002 < metric.compute()["plugin"]


def test_rank_correlation_against_scipy() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random(30), generator.integers(0, 5, 30).astype(float)
    expected = stats.spearmanr(first, second).statistic
    assert rank_correlation(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, rel=1e-12)
