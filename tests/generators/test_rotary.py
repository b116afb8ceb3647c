"""Rotations: as the shared brick turns, relative, and on a grid."""

from __future__ import annotations

import pytest
import torch

from encoders.layers.rotary import rotary_table, rotate_halves
from zoo.generators import GPT, Stream, Vocabulary
from zoo.generators.layers.rotary import places, rotate, spread_table


@pytest.mark.parametrize("grid", [None, (3, 4)])
def test_turns_as_the_shared_brick_does(grid: tuple[int, int] | None) -> None:
    positions = places(2, torch.arange(12), grid)
    x = torch.randn(2, 5, 14, 16, generator=torch.Generator().manual_seed(0))
    want = rotate_halves(x, rotary_table(positions, 16))
    assert torch.allclose(rotate(x, spread_table(positions, 16)), want, atol=1e-6)


def test_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 16, generator=generator)
    table = spread_table(torch.arange(40)[:, None], 16)
    scores = [
        float((rotate(query, table[:, n : n + 1]) * rotate(key, table[:, n + 7 : n + 8])).sum()) for n in (0, 11, 30)
    ]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-4)


def test_places() -> None:
    assert places(2, torch.arange(3), None).T.tolist() == [[0, 1, 2, 3, 4]]
    assert places(1, torch.arange(4), (2, 2)).tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    with pytest.raises(ValueError, match="codes on a grid"):
        GPT(Vocabulary([4], 6), Stream(), rotary="2d", width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="rotary axes need heads"):
        GPT(Vocabulary([4], 4, grid=[2, 2]), Stream(), rotary="2d", width=36, depth=1, heads=6)
