"""Pictures of shapes: what is in front hides what is behind, whichever way triangles face."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.shapes import render
from zoo.shapes.meshes import Cloud, Mesh
from zoo.shapes.render import Camera, draw, views

FRONT = Camera(azimuth=0, elevation=0)


def square(z: float, half: float, flip: bool = False) -> Mesh:
    vertices = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces[:, ::-1].copy() if flip else faces)


def joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    return Mesh(vertices, np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]))


def covered(picture: torch.Tensor) -> torch.Tensor:
    return (picture < 0.999).all(0)


def test_a_square_covers_its_pixels() -> None:
    picture = draw(square(0.0, 0.5), FRONT, size=64)
    assert picture.shape == (3, 64, 64) and picture.min() >= -1 and picture.max() <= 1
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[16:48, 16:48] = True
    assert torch.equal(covered(picture), expected)
    assert torch.allclose(picture, draw(square(0.0, 0.5, flip=True), FRONT, size=64))


def test_axes() -> None:
    """x to the right, y up; with z up the front is seen from -y."""
    corner = Mesh(np.array([[0.5, 0.5, 0.0], [0.9, 0.5, 0.0], [0.5, 0.9, 0.0]]), np.array([[0, 1, 2]]))
    rows, columns = covered(draw(corner, FRONT, size=32)).nonzero().T
    assert rows.max() < 16 <= columns.min()
    turned = Mesh(corner.vertices[:, [0, 2, 1]], corner.faces)
    rows, columns = covered(draw(turned, Camera(0, 0, up="z"), size=32)).nonzero().T
    assert rows.max() < 16 <= columns.min()
    assert np.allclose(Camera(30, 20).axes() @ Camera(30, 20).axes().T, np.eye(3))
    assert np.allclose(Camera(30, 20, "z").axes()[1] @ [0, 0, 1], np.cos(np.radians(20)))


def test_what_is_in_front_hides_what_is_behind() -> None:
    tilted = Mesh(np.array([[-0.9, -0.9, -0.5], [0.9, -0.9, -0.5], [0.0, 0.9, -0.9]]), np.array([[0, 1, 2]]))
    front = square(0.3, 0.4)
    alone, both = draw(front, FRONT, size=64), draw(joined(tilted, front), FRONT, size=64)
    inner = (slice(None), slice(24, 40), slice(24, 40))
    assert torch.allclose(alone[inner], both[inner], atol=0.02)
    swapped = draw(joined(front, tilted), FRONT, size=64)
    assert torch.equal(swapped, both)


def test_portions_do_not_change_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    mesh = Mesh(rng.uniform(-1, 1, (90, 3)), np.arange(90).reshape(30, 3))
    whole = draw(mesh, FRONT, size=48)
    monkeypatch.setattr(render, "PIXELS", 500)
    assert torch.equal(draw(mesh, FRONT, size=48), whole)


def test_round_things_are_smooth_and_edges_stay() -> None:
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 24, endpoint=False), np.linspace(0.1, np.pi - 0.1, 12), indexing="ij")
    ball = np.stack([np.sin(v) * np.cos(u), np.cos(v), np.sin(v) * np.sin(u)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(24), np.arange(11), indexing="ij")
    a, b = i * 12 + j, (i + 1) % 24 * 12 + j
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, a + 1), (b, b + 1, a + 1))])
    normals = render._smooth(Mesh(ball, faces))
    assert ((normals * ball[faces]).sum(-1) > 0.97).all() or ((normals * ball[faces]).sum(-1) < -0.97).all()
    wedge = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]), np.array([[0, 1, 2], [0, 3, 1]]))
    assert np.allclose(np.abs(render._smooth(wedge)), [[[0, 0, 1]] * 3, [[0, 1, 0]] * 3])


def test_clouds() -> None:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3)) * [1, 1, 0]
    lit = draw(Cloud(points, np.tile([0.0, 0, 1], (4000, 1))), FRONT, size=64)
    plain = draw(Cloud(points), FRONT, size=64)
    assert covered(lit)[18:46, 18:46].float().mean() > 0.9 and not covered(lit)[:, :14].any()
    assert torch.equal(covered(lit), covered(plain)) and not torch.equal(lit, plain)


def test_views_frame_like_another_shape() -> None:
    big, small = square(0.0, 5.0), square(0.0, 2.5)
    alone, beside = views(small, size=32), views(small, size=32, like=big)
    assert alone.shape == (3, 32, 64) and covered(alone).sum() > 3 * covered(beside).sum() > 0
    assert views(big, size=32, angles=[(0, 0), (90, 0), (0, 90)], up="z").shape == (3, 32, 96)


def test_a_camera_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="up is y or z and radius above 0, got 'x' and 1"):
        Camera(up="x")  # type: ignore[arg-type]
