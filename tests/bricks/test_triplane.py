"""Triplanes and the network that reads them."""

from __future__ import annotations

import pytest
import torch

from decoders.triplane import TriplaneHead, project, sample_planes


def test_a_linear_plane_gives_back_the_coordinates() -> None:
    line = (torch.arange(8) + 0.5) / 4 - 1
    columns, rows = line.expand(8, 8), line[:, None].expand(8, 8)
    planes = torch.stack([columns, rows]).expand(2, 3, 2, 8, 8)  # channel 0 grows along columns, channel 1 along rows
    points = (torch.rand(2, 40, 3) * 2 - 1) * 0.85
    found = sample_planes(planes, points)
    torch.testing.assert_close(found, project(points))
    x, y, z = points.unbind(-1)
    torch.testing.assert_close(found[:, 0], torch.stack([x, y], -1))
    torch.testing.assert_close(found[:, 2], torch.stack([z, y], -1))


def test_outside_and_bounds() -> None:
    planes, far = torch.ones(1, 3, 4, 8, 8), torch.full((1, 1, 3), 1.5)
    assert not sample_planes(planes, far).any()
    assert (sample_planes(planes, far, outside="border") == 1).all()
    assert (sample_planes(planes, far, bounds=2.0) == 1).all()


def test_head_reads_three_planes_and_perhaps_the_point() -> None:
    planes, points = torch.randn(2, 3, 4, 8, 8), torch.rand(2, 10, 3)
    head = TriplaneHead(4, 16, 3, bands=2)
    assert head(planes, points).shape == (2, 10)
    assert [layer.in_features for layer in head.net if isinstance(layer, torch.nn.Linear)] == [12 + 15, 16, 16]
    with pytest.raises(ValueError, match="depth must be at least 1"):
        TriplaneHead(4, depth=0)
