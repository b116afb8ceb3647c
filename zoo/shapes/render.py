"""Pictures of meshes and point clouds, drawn on the CPU: a z-buffer, soft light from above, smooth edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from zoo.shapes.meshes import Cloud, Floats, Ints, Mesh

__all__ = ["Camera", "Up", "draw", "views"]

Up = Literal["y", "z"]

FINE = 2  # samples of a pixel along each axis
PIXELS = 1 << 21  # samples that are filled together
FAR = torch.iinfo(torch.int64).max
BRIGHT = (0.72, 0.76, 0.86)  # of the clay
LIGHT = (-0.45, 0.75, 0.6)  # towards it, in the camera's axes: right, up, backwards
CREASE = 0.82  # cosine; corners with a triangle that is farther from the mean around them stay sharp


@dataclass(frozen=True, slots=True)
class Camera:
    """A view from far away, without perspective.

    Attributes:
        azimuth: degrees around the upward axis; 0 looks at the front.
        elevation: degrees above the horizon.
        up: the axis that points upwards.
        centre: of the picture, in the shape's units.
        radius: half the side of the picture.
    """

    azimuth: float = 35.0
    elevation: float = 25.0
    up: Up = "y"
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.up not in get_args(Up) or not self.radius > 0:
            raise ValueError(f"up is y or z and radius above 0, got {self.up!r} and {self.radius}")

    def axes(self) -> Floats:
        """(3, 3): unit vectors to the right, upwards and towards the viewer, in rows."""
        turn, lift = np.radians(self.azimuth), np.radians(self.elevation)
        back = np.array([np.sin(turn) * np.cos(lift), np.sin(lift), np.cos(turn) * np.cos(lift)])
        right = np.array([np.cos(turn), 0.0, -np.sin(turn)])
        rows = np.stack([right, np.cross(back, right), back])
        return rows if self.up == "y" else rows @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def views(
    shape: Mesh | Cloud,
    *,
    size: int = 320,
    up: Up = "y",
    like: Mesh | Cloud | None = None,
    angles: Sequence[tuple[float, float]] = ((35.0, 25.0), (215.0, 25.0)),
) -> Tensor:
    """A shape from several sides, in one row.

    Args:
        size: side of each picture, pixels.
        up: the axis that points upwards.
        like: frame the pictures by this shape, so that two shapes can be compared; None for `shape` itself.
        angles: azimuth and elevation of each picture, degrees; without other ones the front and the back.

    Returns:
        (3, size, size * number of views) in [-1, 1].
    """
    points = _points(shape if like is None else like)
    low, high = points.min(axis=0), points.max(axis=0)
    x, y, z = (low + high) / 2
    radius = 1.04 * float(np.linalg.norm(points - (low + high) / 2, axis=1).max())
    cameras = [Camera(*angle, up, (x, y, z), radius or 1.0) for angle in angles]
    return torch.cat([draw(shape, camera, size=size) for camera in cameras], dim=2)


def draw(shape: Mesh | Cloud, camera: Camera, *, size: int = 320) -> Tensor:
    """A picture of a shape on white.

    Triangles are lit from both sides, and smoothly where they meet at less than about 35 degrees; hollows and what lies
    behind an edge are darkened (Luft et al. 2006). Points of a cloud are small squares, lit where they have normals.

    Args:
        size: side of the picture, pixels.

    Returns:
        (3, size, size) in [-1, 1].
    """
    side, axes = FINE * size, camera.axes()
    seen = (_points(shape) - np.asarray(camera.centre)) @ axes.T / camera.radius
    flat = np.stack([(1 + seen[:, 0]) * side / 2, (1 - seen[:, 1]) * side / 2, seen[:, 2]], axis=1)
    buffer = torch.full((side * side,), FAR)
    if isinstance(shape, Cloud):
        _splat(buffer, flat, side)
    else:
        corners = flat[shape.faces]
        for pixels, depths, numbers in _fill(corners, side):
            _nearest(buffer, pixels, depths, numbers)
    drawn = torch.nonzero(buffer != FAR)[:, 0].numpy()
    keys = buffer[drawn].numpy()
    numbers = keys & 0xFFFFFFFF
    if isinstance(shape, Cloud):
        normals = None if shape.normals is None else shape.normals[numbers]
        depths = flat[numbers, 2]
    else:
        weights = _weights(corners[numbers], drawn, side)
        normals = np.einsum("nc,ncd->nd", weights, _smooth(shape)[numbers])
        depths = np.einsum("nc,nc->n", weights, corners[numbers][..., 2])
    return _develop(drawn, depths, normals, axes, size)


def _points(shape: Mesh | Cloud) -> Floats:
    return shape.points if isinstance(shape, Cloud) else shape.vertices


def _fill(corners: Floats, side: int) -> Iterator[tuple[Ints, Floats, Ints]]:
    """Samples, their depths and triangle numbers, of triangles (F, 3, 3) given as x, y in samples and depth."""
    top, rows = _range(corners[..., 1].min(axis=1), corners[..., 1].max(axis=1), side)
    for some in _portions(rows):
        owner, line = _expand(top[some], rows[some])
        owner += some.start
        left, widths = _range(*_span(corners[owner, :, :2], line + 0.5), side)
        for part in _portions(widths):
            place, x = _expand(left[part], widths[part])
            place += part.start
            samples, numbers = line[place] * side + x, owner[place]
            weights = _weights(corners[numbers], samples, side)
            yield samples, np.einsum("nc,nc->n", weights, corners[numbers][..., 2]), numbers


def _range(low: Floats, high: Floats, side: int) -> tuple[Ints, Ints]:
    """The first of the samples whose centres lie in [low, high), and how many do."""
    first, last = (np.clip(np.ceil(edge - 0.5), 0, side).astype(np.int64) for edge in (low, high))
    return first, np.maximum(last - first, 0)


def _portions(counts: Ints) -> Iterator[slice]:
    """Slices of consecutive items whose counts add up to `PIXELS` at most; one item can have more."""
    total, start = np.cumsum(counts), 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + PIXELS, side="right")))
        yield slice(start, stop)
        start = stop


def _expand(first: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """For every item n the numbers first[n], first[n] + 1, ...: which item, and the number."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - first, counts)


def _span(corners: Floats, y: Any) -> tuple[Floats, Floats]:
    """Where the line at height y (n,) enters and leaves a triangle (n, 3, 2)."""
    start, end = corners, np.roll(corners, -1, axis=1)
    rise = end[..., 1] - start[..., 1]
    along = np.where(rise == 0, -1, (y[:, None] - start[..., 1]) / np.where(rise == 0, 1, rise))
    x = start[..., 0] + along * (end[..., 0] - start[..., 0])
    met = (along >= 0) & (along <= 1)
    return np.where(met, x, np.inf).min(axis=1), np.where(met, x, -np.inf).max(axis=1)


def _weights(corners: Floats, samples: Ints, side: int) -> Floats:
    """(n, 3): how much of each corner of triangles (n, 3, 3) there is at samples (n,)."""
    point = np.stack([samples % side, samples // side], axis=1) + 0.5 - corners[:, 0, :2]
    one, other = (corners[:, place, :2] - corners[:, 0, :2] for place in (1, 2))
    area = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    area = np.where(area == 0, np.inf, area)
    second = (point[:, 0] * other[:, 1] - point[:, 1] * other[:, 0]) / area
    third = (one[:, 0] * point[:, 1] - one[:, 1] * point[:, 0]) / area
    return np.clip(np.stack([1 - second - third, second, third], axis=1), 0, 1)


def _splat(buffer: Tensor, flat: Floats, side: int) -> None:
    """Points (P, 3), x, y in samples and depth, as squares."""
    reach = max(1, side // 200)
    centre, numbers = np.floor(flat[:, :2]).astype(np.int64), np.arange(len(flat))
    for right in range(-reach, reach + 1):
        for down in range(-reach, reach + 1):
            x, y = centre[:, 0] + right, centre[:, 1] + down
            seen = (x >= 0) & (x < side) & (y >= 0) & (y < side)
            _nearest(buffer, (y * side + x)[seen], flat[seen, 2], numbers[seen])


def _nearest(buffer: Tensor, samples: Ints, depths: Floats, numbers: Ints) -> None:
    """Keep the nearest at each sample: keys hold how far away something is, then its number."""
    away = (np.clip(0.5 - depths / 16, 0, 1) * (1 << 30)).astype(np.int64)
    buffer.scatter_reduce_(0, torch.from_numpy(samples), torch.from_numpy((away << 32) | numbers), "amin")


def _smooth(mesh: Mesh) -> Floats:
    """(F, 3, 3): a normal at each corner of each triangle, the mean around it unless one there turns too far away."""
    cross = mesh.cross()
    flat = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-30)
    _, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = place.reshape(-1)[mesh.faces]
    sums = [np.bincount(faces.ravel(), np.repeat(cross[:, axis], 3)) for axis in range(3)]
    total = np.stack(sums, axis=1)
    mean = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    around = mean[faces]
    least = np.ones(len(mean))
    np.minimum.at(least, faces, (around * flat[:, None]).sum(axis=-1))
    return np.where((least > CREASE)[faces][..., None], around, flat[:, None])


def _develop(drawn: Ints, depths: Floats, normals: Floats | None, axes: Floats, size: int) -> Tensor:
    """The picture of samples `drawn` with depths and normals."""
    side = FINE * size
    shade = np.full(len(drawn), 0.8)
    if normals is not None:
        facing = normals @ axes.T
        facing *= np.where(facing[:, 2:] < 0, -1, 1) / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-30)
        light = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
        shade = 0.42 + 0.16 * facing[:, 1] + 0.55 * np.maximum(facing @ light, 0)
    canvas, depth, there = torch.ones(3, side * side), torch.zeros(side * side), torch.zeros(side * side)
    depth[drawn], there[drawn] = torch.from_numpy(depths).float(), 1.0
    blurred, share = (_blur(plane.view(1, 1, side, side), side // 80) for plane in (depth, there))
    behind = (blurred / share.clamp_min(1e-6)).view(-1)[drawn] - depth[drawn]
    shadow = 1 - (1.2 * behind).clamp(0, 0.45)
    colour = torch.tensor(BRIGHT)[:, None] * torch.from_numpy(shade).float() * shadow
    canvas[:, drawn] = colour.clamp(0, 1)
    return nn.functional.avg_pool2d(canvas.view(1, 3, side, side), FINE)[0] * 2 - 1


def _blur(plane: Tensor, reach: int) -> Tensor:
    """A plane (1, 1, H, W) of means over about 16 * reach samples along each axis."""
    small = nn.functional.avg_pool2d(plane, 4)
    for along in ((2 * reach + 1, 1), (1, 2 * reach + 1)) * 2:
        margin = (along[0] // 2, along[1] // 2)
        small = nn.functional.avg_pool2d(small, along, 1, margin, count_include_pad=False)
    return nn.functional.interpolate(small, plane.shape[2:], mode="bilinear")
