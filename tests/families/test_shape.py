"""What all shape tokenizers share: clouds in, fields out, placement in `Tokens.size`, and bricks for points."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from encoders.layers.points import FourierPoints, farthest_points, take_points
from quantizers import FSQ, KL, VQ, MultiScaleVQ
from zoo import Tokens
from zoo.families import Field, Placement, ShapeTokenizer
from zoo.families.shape import cell_centres


class Mean(nn.Module):
    """N copies of a map of the mean point."""

    def __init__(self, dim: int, channels: int = 3, num_tokens: int = 4, min_points: int = 2) -> None:
        super().__init__()
        self.dim, self.channels, self.num_tokens, self.min_points = dim, channels, num_tokens, min_points
        self.proj = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.mean(1, keepdim=True)).expand(-1, self.num_tokens, -1)


class Planes(nn.Module):
    """Half spaces: a value is a point's product with the code's mean direction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.proj = nn.Linear(dim, 3)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self.proj(latents).mean(1), latents.new_zeros(len(latents), 1)

    def query(self, state: tuple[Tensor, Tensor], queries: Tensor) -> Tensor:
        return torch.einsum("bqc,bc->bq", queries, state[0]) + state[1]


def planes(channels: int = 3, **options: object) -> ShapeTokenizer:
    torch.manual_seed(0)
    parts = Mean(3, channels), FSQ([8, 8, 8]), Planes(3)
    return ShapeTokenizer(*parts, num_points=16, **options).eval()  # type: ignore[arg-type]


def clouds(count: int = 2, points: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(count, points, channels, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_grid_holds_the_values_at_the_centres_of_cells() -> None:
    tokenizer = planes(bounds=1.5, resolution=5)
    tokens = tokenizer.encode(clouds())
    grid = tokenizer.decode(tokens)
    assert grid.shape == (2, 1, 5, 5, 5)
    axis = (torch.arange(5) + 0.5) * 3 / 5 - 1.5
    points = torch.cartesian_prod(axis, axis, axis)
    torch.testing.assert_close(cell_centres(torch.arange(125), 5, 1.5), points)
    torch.testing.assert_close(grid.flatten(1), tokenizer.field(tokens)(points))
    assert tokenizer.decode(tokens, resolution=3).shape == (2, 1, 3, 3, 3)
    with pytest.raises(ValueError, match="resolution"):
        tokenizer.decode(tokens, resolution=-1)
    with pytest.raises(ValueError, match="one step"):
        tokenizer.decode(tokens, steps=3)


def test_grid_does_not_depend_on_how_it_is_cut() -> None:
    field = planes().field(planes().encode(clouds(3)))
    whole = field.grid(6)
    for queries in (1, 7, 100, 10_000):
        torch.testing.assert_close(field.grid(6, queries=queries), whole)


def test_field_of_one_item() -> None:
    tokenizer = planes()
    field = tokenizer.field(tokenizer.encode(clouds(3)))
    queries = clouds(3, 9)
    assert (field.batch, field.device.type, field.bounds) == (3, "cpu", 1.0)
    torch.testing.assert_close(field[-1](queries[2:]), field(queries)[2:])
    torch.testing.assert_close(field(queries[0]), field(queries[:1].expand(3, -1, -1)))
    plain = Field(lambda state, points: points[..., 0] * state, torch.ones(3, 1))
    assert plain[1].batch == 1
    for wrong in (queries[:2], queries[..., :2], queries[0, 0]):
        with pytest.raises(ValueError, match="queries must be"):
            field(wrong)


def test_forward_answers_at_queries_or_on_the_grid() -> None:
    tokenizer = planes(resolution=4)
    x, queries = clouds(), clouds(2, 9)
    tokens = tokenizer.encode(x)
    assert torch.equal(tokenizer(x, queries).output, tokenizer.field(tokens)(queries))
    assert torch.equal(tokenizer(x).output, tokenizer.decode(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"x\[None\]"),
        (lambda x: x[..., :3], "normal"),
        (lambda x: torch.cat([x, x], -1), r"x\[\.\.\., :6\]"),
        (lambda x: x[:, :1], "more points"),
        (lambda x: x[:, :0], "more points"),
        (lambda x: x * 100, "centre and scale"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: x.long(), "floats"),
    ],
)
def test_bad_clouds_are_named(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        planes(channels=6).encode(change(clouds(channels=6)))


def test_any_number_of_points_is_taken() -> None:
    tokenizer = planes()
    assert tokenizer.encode(clouds(1, 2)).num_tokens == tokenizer.encode(clouds(1, 999)).num_tokens == 4


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="widths differ"):
        ShapeTokenizer(Mean(3), VQ(4, 16), Planes(4), 16)
    with pytest.raises(ValueError, match="last of the scales"):
        ShapeTokenizer(Mean(4), MultiScaleVQ(VQ(4, 16), [1, 2, 3], ndim=1), Planes(4), 16)
    for options in ({"bounds": 0.0}, {"resolution": 0}, {"num_points": 1}):
        with pytest.raises(ValueError, match="bounds must be above 0"):
            ShapeTokenizer(Mean(4), VQ(4, 16), Planes(4), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="placement"):
        Placement("ball")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="placement"):
        Placement(extent=0)


def test_scales_of_the_quantizer_are_those_of_the_tokens() -> None:
    tokenizer = ShapeTokenizer(Mean(4), MultiScaleVQ(VQ(4, 16), [1, 2, 4], ndim=1), Planes(4), 16).eval()
    tokens = tokenizer.encode(clouds())
    assert tokens.scales == tokenizer.spec.scales == (1, 2, 4) and tokens.order == "scales"


def test_gaussian_latents_are_means_in_eval_and_draws_in_training() -> None:
    tokenizer = ShapeTokenizer(Mean(8), KL(4), Planes(4), 16)
    x, queries = clouds(), clouds(2, 9)
    assert not torch.equal(tokenizer(x, queries).output, tokenizer(x, queries).output)
    tokenizer.eval()
    assert torch.equal(tokenizer(x, queries).output, tokenizer(x, queries).output)


def test_placement_travels_with_the_tokens(tmp_path: Path) -> None:
    tokens = planes().encode(clouds())
    assert tokens.size is None
    size = torch.tensor([[0.1, -2.0, 3e5 + 0.25, 0.5], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    tokens = replace(tokens, size=size)
    tokens.save(tmp_path / "shape.safetensors", model="planes")
    again = Tokens.load(tmp_path / "shape.safetensors")
    assert again.equal(tokens) and again.size is not None and again.size.dtype == torch.float64
    joined = Tokens.cat([tokens[0], tokens[1]])
    assert joined.equal(tokens)
    assert planes().decode(again).shape == (2, 1, 64, 64, 64)  # decoding stays in the normalised frame
    with pytest.raises(ValueError, match="centre and scale"):
        replace(tokens, size=torch.rand(2, 3))


def test_farthest_points_equals_the_definition() -> None:
    points = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    chosen = farthest_points(points, 12)
    for cloud, indices in zip(points, chosen.tolist(), strict=True):
        assert indices[0] == 0
        for count in range(1, 12):
            nearest = (cloud[:, None] - cloud[indices[:count]]).square().sum(-1).amin(1)
            assert indices[count] == int(nearest.argmax())
    assert torch.equal(take_points(points, chosen)[1], points[1, chosen[1]])


def test_farthest_points_start_where_told_and_meet_every_point() -> None:
    points = torch.randn(3, 20, 3)
    first = farthest_points(points, 1, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, farthest_points(points, 5, generator=torch.Generator().manual_seed(5))[:, :1])
    assert all(sorted(row) == list(range(20)) for row in farthest_points(points, 20).tolist())
    assert farthest_points(torch.zeros(1, 4, 3), 3).tolist() == [[0, 0, 0]]
    for count in (0, 21):
        with pytest.raises(ValueError, match="1 to 20"):
            farthest_points(points, count)


def test_farthest_points_equals_fpsample() -> None:
    fpsample = pytest.importorskip("fpsample")
    cloud = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    expected = fpsample.fps_sampling(cloud.numpy(), 64, start_idx=0)
    assert farthest_points(cloud[None], 64)[0].tolist() == expected.tolist()


def test_fourier_points_in_both_orders() -> None:
    points = torch.rand(4, 3, dtype=torch.bfloat16) - 0.5
    angles = (points.float()[..., None] * math.pi * torch.tensor([1.0, 2.0, 4.0])).flatten(1)
    last, first = FourierPoints(3)(points), FourierPoints(3, pi=False, raw="first")(points)
    torch.testing.assert_close(last, torch.cat([angles.sin(), angles.cos(), points.float()], 1))
    torch.testing.assert_close(first[:, :12], torch.cat([points.float(), (angles / math.pi).sin()], 1))
    assert last.dtype == torch.float32 and last.shape[1] == FourierPoints(3).dim
    with pytest.raises(ValueError, match="bands"):
        FourierPoints(0)
