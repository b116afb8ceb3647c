"""Training and validation shapes as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from zoo.data.base import SampledData
from zoo.data.shape_draws import ShapeDraws, Symmetry, Target
from zoo.data.sources import SHAPES, Source
from zoo.shapes.placement import Kind

__all__ = ["ShapeData"]


class ShapeData(SampledData):
    """Random points and queries of prepared shapes, the same ones every time for validation; batches are `Shapes`.

    The training batch of a step depends on `seed` and the step alone: not on workers, restarts, or what was drawn
    before. Unreadable files are recorded, counted and replaced by the next readable one. Validation is not augmented.

    Args:
        root: a folder of what `zoo prepare-meshes` wrote, or tar files of it (`.tar`, a folder or pattern of them).
        points: P, surface points of a shape.
        batch_size: shapes per device and step.
        channels: 3 for x, y, z; 6 with normals.
        sharp: share of the points, in [0, 1], that lie on sharp edges, of shapes that have some.
        volume: queries uniform in [-bounds, bounds]^3.
        near: queries near the surface.
        target: "occupancy" (1 inside, 0 outside) or "sdf" (distance from the surface, positive inside).
        placement: how shapes fill the frame, as the tokenizer's; "none" leaves them as they were prepared.
        extent: see `Frame.around`.
        bounds: half the side of the cube of the volume queries.
        stretch: [low, high] of the factors along each axis, drawn evenly (3DShape2VecSet: 0.75 and 1.25); the shape is
            placed again afterwards. For occupancy only. None leaves proportions alone.
        symmetry: "upright" turns shapes by quarter turns about y and mirrors them, 8 views; "cube" also puts them on
            their sides, 48 views; "none".
        jitter: standard deviation of noise on the points, in the frame (3DShape2VecSet: 0.005).
        val_root: a separate source for validation; otherwise `val_fraction` of `root` is held out.
        val_fraction: share of the files of `root` that is held out, chosen by name; 0 for no validation.
        val_size: fixed samples in the validation set.
        num_workers: processes that prepare batches.
        cache: "ram" reads every file once (0.5 MB for a shape as prepared by default); "none" reads it each time.
        seed: of order and augmentation.

    Raises:
        ValueError: nothing readable at a root, or an option outside its range.
    """

    kind = SHAPES

    def __init__(
        self,
        root: str,
        points: int = 2048,
        batch_size: int = 16,
        *,
        channels: int = 3,
        sharp: float = 0.0,
        volume: int = 1024,
        near: int = 1024,
        target: Target = "occupancy",
        placement: Kind = "none",
        extent: float = 1.0,
        bounds: float = 1.0,
        stretch: Sequence[float] | None = None,
        symmetry: Symmetry = "none",
        jitter: float = 0.0,
        val_root: str | None = None,
        val_fraction: float = 0.05,
        val_size: int = 64,
        num_workers: int = 4,
        cache: Literal["none", "ram"] = "none",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            val_root=val_root,
            val_fraction=val_fraction,
            val_size=val_size,
            split="train",
            num_workers=num_workers,
            seed=seed,
        )
        choices = {"target": get_args(Target), "symmetry": get_args(Symmetry), "placement": get_args(Kind)}
        choices["cache"] = ("none", "ram")
        given = {"target": target, "symmetry": symmetry, "placement": placement, "cache": cache}
        for name, value in given.items():
            if value not in choices[name]:
                raise ValueError(f"data.{name} is one of {', '.join(choices[name])}, got {value!r}")
        if points < 1 or min(volume, near) < 0 or volume + near < 1 or channels not in (3, 6):
            raise ValueError(
                "data.points is at least 1, data.volume and data.near are not negative nor both 0, data.channels is 3 "
                f"or 6; got {points}, {volume}, {near} and {channels}"
            )
        if not 0 <= sharp <= 1 or jitter < 0 or min(extent, bounds) <= 0:
            raise ValueError(
                "data.sharp is in [0, 1], data.jitter not negative, data.extent and data.bounds are above 0; "
                f"got {sharp}, {jitter}, {extent} and {bounds}"
            )
        if stretch is not None and (len(stretch) != 2 or not 0 < stretch[0] <= stretch[1]):
            raise ValueError(f"data.stretch is [low, high] with 0 < low <= high, or null; got {list(stretch)}")
        if stretch is not None and target == "sdf":
            raise ValueError("data.stretch changes distances in ways that are not known; use data.target=occupancy")
        self._view: dict[str, Any] = {"channels": channels, "sharp": sharp, "target": target, "bounds": bounds}
        self._view |= {"placement": placement, "extent": extent, "cache": cache == "ram"}
        self._augment: dict[str, Any] = {"symmetry": symmetry, "jitter": jitter}
        self._augment["stretch"] = None if stretch is None else (stretch[0], stretch[1])
        self.points, self.volume, self.near = points, volume, near

    def samples_of(self, source: Source, indices: Sequence[int], *, training: bool) -> ShapeDraws:
        """Samples of some shapes of a source."""
        options: dict[str, Any] = {"seed": self.seed, **self._augment} if training else {"seed": 0}
        return ShapeDraws(
            source, indices, self.points, self.volume, self.near, errors=self.errors, **self._view, **options
        )
