"""Where a shape stands in the frame of a tokenizer, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from zoo.shapes.meshes import Floats

__all__ = ["Frame", "Kind"]

Kind = Literal["box", "sphere", "none"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A shift and a scale: world = normalised * scale + centre.

    Attributes:
        centre: (x, y, z) of the normalised origin, in the units of the file.
        scale: units of the file per normalised unit.
    """

    centre: tuple[float, float, float]
    scale: float

    @classmethod
    def around(cls, points: Floats, kind: Kind, extent: float) -> Self:
        """The frame in which points (P, 3) are centred by their bounding box and fill a size.

        Args:
            kind: "box" gives the longest side of the box the half length `extent`, "sphere" puts the point farthest
                from the centre at that distance, "none" leaves everything where it is.

        Raises:
            ValueError: an unknown kind, or all points in one place.
        """
        if kind == "none":
            return cls((0.0, 0.0, 0.0), 1.0)
        if kind not in ("box", "sphere") or extent <= 0:
            raise ValueError(f"placement is box, sphere or none, with an extent above 0; got {kind!r} and {extent}")
        low, high = points.min(axis=0), points.max(axis=0)
        centre = low + (high - low) / 2
        size = (high - low).max() / 2 if kind == "box" else np.linalg.norm(points - centre, axis=1).max()
        if size == 0:
            raise ValueError(f"cannot place {len(points)} points that lie in one place")
        return cls((float(centre[0]), float(centre[1]), float(centre[2])), float(size / extent))

    @classmethod
    def of(cls, numbers: Floats) -> Self:
        """The frame written as four numbers: centre, then scale."""
        x, y, z, scale = (float(number) for number in numbers)
        return cls((x, y, z), scale)

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Centre and scale, as `Tokens.size` holds them."""
        return (*self.centre, self.scale)

    def normalise(self, points: Floats) -> Floats:
        """World to frame, (..., 3)."""
        return (points - np.asarray(self.centre)) / self.scale

    def restore(self, points: Floats) -> Floats:
        """Frame to world, (..., 3)."""
        return points * self.scale + np.asarray(self.centre)
