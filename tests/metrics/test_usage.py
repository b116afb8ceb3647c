"""Use of codebooks over an epoch: equal to one count of everything, whatever the batches, padding and ranks."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo.metrics.tables
from zoo.metrics import CodeStatistics, alphabets, codebook_perplexity, codebook_usage, miller_madow
from zoo.tokens import Tokens

ROOT = Path(__file__).parents[2]
HUGE = 2**40
MEANS = ("usage", "entropy", "entropy_corrected", "coverage", "perplexity")
NAMES = {"positions", *MEANS, *(f"codebook_{name}" for name in MEANS)}


def draw(sizes: tuple[int, ...], batch: int, tokens: int, seed: int) -> Tensor:
    """Codes in which the small ones are frequent."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(batch, tokens, len(sizes), generator=generator, dtype=torch.float64)
    return (uniform**3 * torch.tensor(sizes, dtype=torch.float64)).long()


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 7, 1000, 2**24 + 1, HUGE]), min_size=1, max_size=3).map(tuple),
    batches=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_equals_one_count_of_all_codes(sizes: tuple[int, ...], batches: list[int], seed: int) -> None:
    metric = CodeStatistics(sizes)
    parts = [draw(sizes, batch, 6, seed + step) for step, batch in enumerate(batches)]
    for part in parts:
        metric.update(part)
    seen = torch.cat(parts).flatten(0, 1)
    found = metric.compute()
    assert set(found) == NAMES and int(found["positions"]) == len(seen)
    for book, size in enumerate(sizes if len(seen) else ()):
        _, counts = seen[:, book].unique(return_counts=True)
        share = counts.double() / len(seen)
        bits = -(share * share.log2()).sum()
        torch.testing.assert_close(found["codebook_usage"][book], torch.tensor(len(counts) / size).double())
        torch.testing.assert_close(found["codebook_entropy"][book], bits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["codebook_perplexity"][book], 2**bits)
        corrected = min(float(bits) + (len(counts) - 1) / (2 * len(seen) * math.log(2)), math.log2(size))
        assert float(found["codebook_entropy_corrected"][book]) == pytest.approx(corrected, rel=1e-9, abs=1e-9)
        once = int((counts == 1).sum())
        assert float(found["codebook_coverage"][book]) == pytest.approx(1 - once / len(seen))
        assert 0 <= bits <= math.log2(max(size, 1)) + 1e-9
    for name in MEANS:
        torch.testing.assert_close(found[name], torch.stack(found[f"codebook_{name}"]).mean())


def test_agrees_with_the_functions() -> None:
    metric = CodeStatistics([8])
    indices = draw((8,), 3, 50, 0)
    metric.update(indices)
    assert float(metric.compute()["usage"]) == float(codebook_usage(indices, 8))
    torch.testing.assert_close(metric.compute()["perplexity"], codebook_perplexity(indices, 8))


@pytest.mark.parametrize("sizes", [(4, 9), (HUGE, 9)])
def test_padding_is_not_counted(sizes: tuple[int, ...]) -> None:
    indices, lengths = draw(sizes, 3, 5, 1), torch.tensor([5, 0, 2])
    mask = torch.arange(5) < lengths[:, None]
    by_mask, by_lengths, by_hand = (CodeStatistics(sizes) for _ in range(3))
    by_mask.update(indices.masked_fill(~mask[..., None], 3), mask=mask)
    by_lengths.update(indices, lengths=lengths)
    by_hand.update(indices[mask][None])
    for name, value in by_hand.compute().items():
        assert by_mask.compute()[name] == by_lengths.compute()[name] == value, name
    by_mask.reset()
    by_mask.update(indices, mask=torch.zeros_like(mask))
    assert all(by_mask.compute()[name] == 0 for name in ("positions", *MEANS))


def test_reset_and_copies() -> None:
    metric = CodeStatistics([4, HUGE])
    metric.update(torch.tensor([[[0, 5], [3, HUGE - 1]]]))
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert float(twin.compute()["perplexity"]) == pytest.approx(2)
    metric.reset()
    metric.update(torch.tensor([[[1, 7]]]))
    found = metric.compute()
    assert found["positions"] == 1 and found["codebook_usage"] == (0.25, 1 / HUGE)
    assert metric.state_dict() == {}


def test_value_of_a_batch_while_the_epoch_goes_on() -> None:
    metric = CodeStatistics([4, HUGE])
    assert metric(torch.tensor([[[0, 5]]]))["codebook_usage"] == (0.25, 1 / HUGE)
    assert metric(torch.tensor([[[1, 6]]]))["codebook_usage"] == (0.25, 1 / HUGE)
    assert metric.compute()["codebook_usage"] == (0.5, 2 / HUGE)


def test_memory_of_a_large_codebook_follows_its_distinct_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.metrics.tables, "PENDING", 64)
    metric = CodeStatistics([HUGE])
    for step in range(50):
        metric.update(draw((100,), 2, 40, step) * 10**9)
        assert sum(len(part) for part in metric.rows_0) <= 2 * 100 + 80
    assert int(metric.compute()["positions"]) == 50 * 80


def test_wrong_input_is_explained() -> None:
    metric = CodeStatistics([4, 9])
    with pytest.raises(ValueError, match="continuous latents have no codes"):
        CodeStatistics([])
    with pytest.raises(ValueError, match=r"integer indices \(B, N, 2\), got torch.int64 \(1, 3\)"):
        metric.update(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[0, 4\), got 0 to 4"):
        metric.update(torch.tensor([[[4, 0], [0, 0]]]))
    indices = torch.zeros(2, 3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"mask of bool \(2, 3\), got torch.bool \(2, 4\)"):
        metric.update(indices, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="got both"):
        metric.update(indices, mask=torch.ones(2, 3, dtype=torch.bool), lengths=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"lengths \(2,\), got \(3,\)"):
        metric.update(indices, lengths=torch.tensor([1, 1, 1]))
    assert not metric.compute()["positions"], "a refused batch leaves no trace"


@pytest.mark.parametrize("count", [8_192, 32_768, 200_000])
def test_correction_of_miller_and_madow(count: int) -> None:
    """A uniform codebook of 4096 carries 12 bits; counting alone is 0.4, 0.09 and 0.015 too low."""
    codes = torch.randint(4096, (count,), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(codes, minlength=4096)
    plain = -(counts / count)[counts > 0].mul((counts / count)[counts > 0].log2()).sum()
    assert 12 - float(plain) > 0.01
    assert abs(12 - float(miller_madow(counts))) < abs(12 - float(plain)) / 4


def test_scales_with_codebooks_of_their_own_are_kept_apart() -> None:
    indices = torch.tensor([[[0], [0], [1], [2], [3]]])
    tokens = Tokens(indices, (4,), scales=(1, 4), distinct_scales=True, order="scales")
    metric = CodeStatistics(alphabets(tokens))
    metric.update(tokens)
    found = metric.compute()
    assert found["codebook_usage"] == (0.25, 1.0) and found["positions"] == 5
    shared = CodeStatistics((4,))
    shared.update(Tokens(indices, (4,), torch.tensor([3])))
    assert shared.compute()["usage"] == 0.5


def test_codebooks_that_were_left_out_do_not_lower_the_mean() -> None:
    metric = CodeStatistics((4, 4))
    metric.update(Tokens(torch.tensor([[[0, 1], [1, 1]]]), (4, 4)).keep_codebooks(1))
    found = metric.compute()
    assert found["usage"] == 0.5 and found["codebook_usage"] == (0.5, 0.0)


RANK = """
import sys
import torch
import torch.distributed as dist
from zoo.metrics import CodeStatistics

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
batches = torch.load(f"{folder}/batches.pt")
found = []
for used in (4, 1):  # in the second epoch, rank 1 sees nothing
    metric = CodeStatistics([5, 2**40]) if not found else metric
    metric.reset()
    for batch in batches[rank:used:2]:
        metric.update(batch)
    found.append(metric.compute())
    assert metric.counts.sum() == sum(batch[..., 0].numel() for batch in batches[rank:used:2])
torch.save(found, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


def test_ranks_count_together(tmp_path: Path) -> None:
    sizes = (5, HUGE)
    batches = [draw(sizes, batch, 7, seed) for seed, batch in enumerate((3, 2, 1, 4))]
    torch.save(batches, tmp_path / "batches.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    for epoch, used in enumerate((4, 1)):
        alone = CodeStatistics(sizes)
        for batch in batches[:used]:
            alone.update(batch)
        for rank in range(2):
            found = torch.load(tmp_path / f"rank{rank}.pt")[epoch]
            assert found.keys() == NAMES
            for name, value in alone.compute().items():
                assert found[name] == value, (name, rank, epoch)
