"""The order of samples depends on seed and step alone."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.sampler import StepSampler, mix

sizes = st.integers(1, 40)


def take(sampler: StepSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(islice(sampler, count))


@settings(max_examples=40, deadline=None)
@given(size=sizes, batch=st.integers(1, 9), start=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_a_later_start_is_the_tail_of_the_whole(size: int, batch: int, start: int, seed: int) -> None:
    whole = take(StepSampler(size, batch, seed=seed), start + 5)
    assert take(StepSampler(size, batch, seed=seed, start=start), 5) == whole[start:]


@settings(max_examples=40, deadline=None)
@given(size=sizes, batch=st.integers(1, 6), world=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_ranks_share_one_stream(size: int, batch: int, world: int, seed: int) -> None:
    ranks = [take(StepSampler(size, batch, seed=seed, rank=rank, world_size=world), 4) for rank in range(world)]
    together = [item for step in zip(*ranks, strict=True) for part in step for item in part]
    assert together == [item for part in take(StepSampler(size, batch * world, seed=seed), 4) for item in part]
    assert [draw for _, draw in together] == list(range(len(together)))


@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**31))
def test_every_epoch_shows_every_sample_once(size: int, seed: int) -> None:
    (epochs,) = take(StepSampler(size, 3 * size, seed=seed), 1)
    orders = [[index for index, _ in epochs[first : first + size]] for first in range(0, 3 * size, size)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    if size > 8:
        assert orders[0] != orders[1]


def test_seeds_differ() -> None:
    assert take(StepSampler(50, 50, seed=0), 1) != take(StepSampler(50, 50, seed=1), 1)
    assert len({mix(a, b) for a in range(50) for b in range(50)}) == 2500


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"batch_size": 0}, {"start": -1}, {"rank": 2, "world_size": 2}], ids=str
)
def test_nonsense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="StepSampler expects"):
        StepSampler(**{"size": 4, "batch_size": 2, **options})
