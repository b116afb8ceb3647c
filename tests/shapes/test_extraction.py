"""Meshes from fields: on few nodes the same as on all of them, closed, oriented, at the right place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from scripts.demo_shapes import MESH, encode
from zoo.families.shape import Field, ShapeTokenizer
from zoo.shapes.extraction import Extraction, extract
from zoo.shapes.meshes import read_mesh
from zoo.store.cards import CARDS

pytest.importorskip("skimage")

Distance = Callable[[Tensor], Tensor]


def ball(centre: list[float], radius: float) -> Distance:
    return lambda points: radius - (points - torch.tensor(centre)).norm(dim=-1)


def box(centre: list[float], half: list[float]) -> Distance:
    def field(points: Tensor) -> Tensor:
        beyond = (points - torch.tensor(centre)).abs() - torch.tensor(half)
        return -(beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0))

    return field


def rod(start: list[float], end: list[float], radius: float) -> Distance:
    a, b = torch.tensor(start), torch.tensor(end)

    def field(points: Tensor) -> Tensor:
        along = ((points - a) * (b - a)).sum(-1).div((b - a).square().sum()).clamp(0, 1)
        return radius - (points - a - along[..., None] * (b - a)).norm(dim=-1)

    return field


def union(*fields: Distance) -> Distance:
    return lambda points: torch.stack([field(points) for field in fields]).amax(0)


def torus(ring: float, tube: float) -> Distance:
    return lambda points: tube - torch.hypot(points[..., :2].norm(dim=-1) - ring, points[..., 2])


def scattered(count: int, low: float, high: float) -> Distance:
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(count, 3, generator=generator) * 1.8 - 0.9
    radii = torch.rand(count, generator=generator) * (high - low) + low
    return union(*[ball(centre.tolist(), float(radius)) for centre, radius in zip(centres, radii, strict=True)])


def hollow(points: Tensor) -> Tensor:
    """A shell two cells thick, and inside it a ball with a hole of a cell."""
    inner = torch.minimum(ball([0.1, 0.0, 0.0], 0.4)(points), -ball([0.211, 0.107, -0.05], 0.02)(points))
    return torch.maximum(0.012 - (points.norm(dim=-1) - 0.8).abs(), inner)


SHAPES: dict[str, Distance] = {
    "ball": ball([0.03, 0.01, -0.02], 0.8),
    "box": box([0.01, 0.02, 0.03], [0.7, 0.5, 0.3]),
    "torus": torus(0.6, 0.2),
    "ring": torus(0.6, 0.012),
    "plate": box([0.0, 0.0173, 0.0], [0.7, 0.009, 0.6]),
    "shelf": union(*[box([0.0, 0.16 * n - 0.7 + 0.002 * n * n, 0.0], [0.6, 0.009, 0.5]) for n in range(9)]),
    "rod": rod([-0.7, -0.3103, 0.2087], [0.7, -0.3103, 0.2087], 0.014),
    "skew rod": rod([-0.7, -0.3, 0.2], [0.6, 0.5, 0.31], 0.013),
    "balls": scattered(25, 0.01, 0.15),
    "crumbs": scattered(30, 0.013, 0.03),
    "hollow": hollow,
}


def saturated(field: Distance) -> Distance:
    """Like the logits of a decoder: steep at the surface, flat far from it."""
    return lambda points: 8 * torch.tanh(60 * field(points) / 8)


def same(one: Extraction, other: Extraction) -> bool:
    return np.array_equal(one.mesh.vertices, other.mesh.vertices) and np.array_equal(one.mesh.faces, other.mesh.faces)


def edges(faces: np.ndarray) -> np.ndarray:
    """How often each directed edge occurs with its reverse taken off: all zero for a closed, oriented mesh."""
    pairs = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    number = pairs.astype(np.int64).min(axis=1) * (faces.max() + 1) + pairs.max(axis=1)
    _, place = np.unique(number, return_inverse=True)
    return np.bincount(place.reshape(-1), np.where(pairs[:, 0] < pairs[:, 1], 1, -1))


def volume(result: Extraction) -> float:
    a, b, c = np.moveaxis(result.mesh.corners, 1, 0)
    return float((np.cross(a, b) * c).sum() / 6)


@pytest.mark.parametrize("sharpen", [lambda field: field, saturated], ids=["distance", "logits"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_few_evaluations_give_the_dense_surface(name: str, sharpen: Callable[[Distance], Distance]) -> None:
    field = sharpen(SHAPES[name])
    few, all_ = extract(field, resolution=80), extract(field, resolution=80, stride=1)
    assert same(few, all_)
    assert all_.evaluations == 81**3 and all_.share == 1 and few.share < 0.3
    assert not edges(few.mesh.faces).any() and volume(few) > 0


@pytest.mark.parametrize(("resolution", "stride"), [(64, 4), (50, 4), (37, 2), (61, 8), (9, 9)])
def test_grids_that_strides_do_not_divide(resolution: int, stride: int) -> None:
    for name in ("ball", "box", "torus"):
        field = SHAPES[name]
        assert same(
            extract(field, resolution=resolution, stride=stride), extract(field, resolution=resolution, stride=1)
        )


@pytest.mark.parametrize("name", ["ball", "skew rod"])
def test_under_five_per_cent_at_256(name: str) -> None:
    assert extract(SHAPES[name], resolution=256).share < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHAPES))
def test_the_same_at_256(name: str) -> None:
    few, all_ = extract(SHAPES[name], resolution=256), extract(SHAPES[name], resolution=256, stride=1)
    assert same(few, all_) and all_.evaluations > 8 * few.evaluations


def test_vertices_lie_on_the_surface() -> None:
    """Also a check of the grid: nodes are bounds apart by resolution steps, not by resolution + 1."""
    for resolution in (32, 33):
        result = extract(ball([0.1, 0.2, -0.3], 1.1), resolution=resolution, bounds=1.5)
        away = np.linalg.norm(result.mesh.vertices - [0.1, 0.2, -0.3], axis=1)
        assert abs(away - 1.1).max() < 2e-3
        assert volume(result) == pytest.approx(4 / 3 * np.pi * 1.1**3, rel=1e-2)
    plane = extract(lambda points: 0.25 - points.abs().amax(-1), resolution=8, stride=1)
    assert plane.mesh.vertices.max() == 0.25 and plane.mesh.vertices.min() == -0.25


def test_levels_and_axes() -> None:
    result = extract(lambda points: 3 - (points * torch.tensor([1.0, 2.0, 4.0])).norm(dim=-1), resolution=64, level=2.2)
    assert np.allclose(result.mesh.vertices.max(axis=0), [0.8, 0.4, 0.2], atol=2e-3)


def test_shapes_that_leave_the_cube_are_closed_there() -> None:
    for stride in (1, 4):
        result = extract(ball([0.9, 0.0, 0.0], 0.5), resolution=32, stride=stride)
        assert not edges(result.mesh.faces).any() and result.mesh.vertices.max() <= 1
        full = extract(lambda points: torch.ones(points.shape[:-1]), resolution=16, stride=stride)
        assert not edges(full.mesh.faces).any() and 6 < volume(full) < 8


def test_queries_come_in_batches_and_none_twice() -> None:
    seen: list[Tensor] = []

    def field(points: Tensor) -> Tensor:
        seen.append(points[0])
        return SHAPES["torus"](points)

    result = extract(field, resolution=64, query_batch=1000)
    assert max(map(len, seen)) <= 1000
    points = torch.cat(seen)
    assert len(points) == result.evaluations == len(points.unique(dim=0))


def test_fields_of_tokenizers() -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build("direct3d_tiny").eval()
    assert isinstance(tokenizer, ShapeTokenizer)
    with torch.no_grad():
        tokens = tokenizer.encode(torch.nn.functional.normalize(torch.randn(2, *tokenizer.spec.input_shape), dim=-1))
        field = tokenizer.field(tokens)
        middle = float(field(torch.rand(1000, 3) * 0.6 - 0.3)[1].median())
    with pytest.raises(ValueError, match=r"one shape is extracted at a time, got a field of 2; use field\[0\]"):
        extract(field)
    few, all_ = (extract(field[1], resolution=20, bounds=0.2, level=middle, stride=stride) for stride in (4, 1))
    assert few.evaluations < all_.evaluations and few.mesh.vertices.shape == all_.mesh.vertices.shape
    assert np.array_equal(few.mesh.faces, all_.mesh.faces)
    assert np.allclose(few.mesh.vertices, all_.mesh.vertices, atol=1e-4)


@pytest.mark.skipif(
    not (CARDS / "weights" / "vat_tiny.safetensors").is_file(), reason="the weights are not in checkpoints/weights"
)
def test_the_field_of_a_trained_decoder() -> None:
    """What is found is part of the dense surface, and all of it but for specks that the decoder leaves in the air."""
    tokenizer = zoo.load("vat_tiny")
    assert isinstance(tokenizer, ShapeTokenizer)
    with torch.inference_mode():
        field = tokenizer.field(encode(tokenizer, read_mesh(MESH)))
        few, all_ = extract(field, resolution=96), extract(field, resolution=96, stride=1)
    found, wanted = (set(map(tuple, result.mesh.vertices.round(4))) for result in (few, all_))
    assert len(found - wanted) <= 1e-3 * len(wanted) and len(wanted - found) <= 5e-3 * len(wanted)


def test_bounds_of_a_field() -> None:
    field = Field(lambda state, points: 1.2 - points.norm(dim=-1), torch.zeros(1, 1), bounds=1.25)
    assert np.abs(extract(field, resolution=32).mesh.vertices).max() == pytest.approx(1.2, abs=1e-3)


def test_refusals() -> None:
    for stride in (1, 4):
        with pytest.raises(
            ValueError, match=r"none of .* values in \[-1, 1\]\^3 is above the level 0, the highest is -2"
        ):
            extract(lambda points: torch.full(points.shape[:-1], -2.0), resolution=16, stride=stride)
    with pytest.raises(ValueError, match="NaN or infinite"):
        extract(lambda points: points[..., 0] / 0, resolution=16)
    with pytest.raises(ValueError, match="resolution must be at least 2"):
        extract(SHAPES["ball"], resolution=1)
