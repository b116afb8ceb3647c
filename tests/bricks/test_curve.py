"""The Hilbert curve."""

from __future__ import annotations

import pytest
import torch

from encoders.layers.curve import curve_points, hilbert_index


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_curve_visits_every_cell_and_steps_to_a_neighbour(bits: int) -> None:
    cells = torch.cartesian_prod(*[torch.arange(1 << bits)] * 3)
    index = hilbert_index(cells, bits)
    assert index.sort().values.tolist() == list(range(8**bits))
    path = cells[index.argsort()]
    assert ((path[1:] - path[:-1]).abs().sum(1) == 1).all()


def test_curve_begins_at_the_corner_and_halves_nest() -> None:
    assert hilbert_index(torch.zeros(2, 3, dtype=torch.int64), 4).tolist() == [0, 0]
    coarse, fine = curve_points(8), curve_points(64)
    torch.testing.assert_close(fine.unflatten(0, (8, 8)).mean(1), coarse)  # a stretch of eight cells is a cube
    assert fine.abs().max() <= 1


@pytest.mark.parametrize("count", [0, 4097])
def test_count_is_checked(count: int) -> None:
    with pytest.raises(ValueError, match=r"1 to 4096 points, got"):
        curve_points(count)
