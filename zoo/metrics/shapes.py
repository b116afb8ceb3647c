"""Fidelity of reconstructed shapes over a whole epoch and all ranks, as torchmetrics metrics.

Every shape has the same share in a mean. Sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

__all__ = ["SurfaceDistance", "SurfaceFidelity", "VolumeIoU", "nearest", "sampling_floor"]

PAIRS = 1 << 24  # distances held at a time where there is no tree
FRAME = "the original's bounding box fills [-1, 1] along its longest side"


class ShapeMean(Metric):
    """Mean of numbers that every shape has; subclasses define `update`, which calls `add`.

    Args:
        names: of the numbers of one shape; none where it is only one.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Attributes:
        names: as given.
        count: () int64 shapes in the mean.
        skipped: () int64 shapes for which the measure is not defined.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)
        self.add_state("total", torch.zeros(len(self.names) or 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def protocol(self) -> dict[str, Any]:
        """What belongs beside the numbers, as plain data: how they were measured."""
        raise NotImplementedError(f"{type(self).__name__} must define protocol")

    def add(self, values: Tensor) -> None:
        """Take in the numbers (B,) or (B, names) of some shapes; not finite where undefined."""
        values = values.to(self.total).view(len(values), -1)
        measured = values.isfinite().all(1)
        self.total += values[measured].sum(0)
        self.count += measured.sum()
        self.skipped += (~measured).sum()

    def compute(self) -> Any:
        """Mean over the shapes, () float64, or one for each of `names`; NaN where nothing was measured."""
        means = self.total / self.count
        return dict(zip(self.names, means, strict=True)) if self.names else means[0]


class VolumeIoU(ShapeMean):
    """Volume inside both shapes over volume inside either, by queries; a shape is skipped where neither has any inside.

    With all queries uniform in the cube this is the protocol of 3DShape2VecSet's evaluation.

    Args:
        level: an output above it is inside: 0 for logits of occupancy and for distances that are positive inside.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, level: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = level

    @property
    def protocol(self) -> dict[str, Any]:
        """The level."""
        return {"level": self.level}

    @torch.no_grad()
    def update(self, output: Tensor, values: Tensor, mask: Tensor | None = None) -> None:
        """Measure a batch.

        Args:
            output: (B, Q) of the reconstructions.
            values: (B, Q) of the originals: occupancy in 0 and 1, or distances; above 0 is inside.
            mask: (B, Q) bool, False for queries that do not count; None for all.

        Raises:
            ValueError: shapes differ.
        """
        if output.shape != values.shape or output.ndim != 2 or (mask is not None and mask.shape != values.shape):
            found = [tuple(tensor.shape) for tensor in (output, values, mask) if tensor is not None]
            raise ValueError(f"VolumeIoU expects outputs, values and mask (B, Q) of one shape, got {found}")
        ours, theirs = output > self.level, values > 0
        counted = torch.ones_like(ours) if mask is None else mask
        both, either = (ours & theirs & counted).sum(1), ((ours | theirs) & counted).sum(1)
        self.add(both.double() / either)


class SurfaceDistance(ShapeMean):
    """Chamfer distances, F-scores and normal consistency of points sampled from two surfaces.

    With d the distance (L2) from a point to the nearest one of the other cloud:

        accuracy        mean d, reconstruction to original
        completeness    mean d, original to reconstruction
        chamfer_sum     accuracy + completeness                               (3DShape2VecSet's Chamfer distance)
        chamfer_mean    (accuracy + completeness) / 2                         (that of TAR3D and of occupancy networks)
        chamfer_squared mean d^2 of one way + mean d^2 of the other
        f_score@t       harmonic mean of precision@t and recall@t, the shares of both clouds with d < t
        normal_consistency         mean |n . n'| over nearest pairs, both ways averaged
        normal_consistency_signed  the same with the sign, which sees surfaces that are turned inside out

    Two samplings of the same surface are some distance apart, so no reconstruction gets better numbers than those of
    `sampling_floor`. The number of points is therefore fixed, and belongs beside each number, as `protocol` gives it.

    Args:
        points: in each cloud. F-scores at 0.01 of shapes that fill [-1, 1]^3 need 100 000.
        thresholds: t of the F-scores, in units of the frame.
        normals: whether clouds hold normals, (..., 6).
        frame: in which frame the shapes are when they are compared; kept in `protocol`.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: no points, or a threshold that is not positive.
    """

    def __init__(
        self,
        points: int = 100_000,
        thresholds: Sequence[float] = (0.01, 0.02, 0.05),
        *,
        normals: bool = False,
        frame: str = FRAME,
        **kwargs: Any,
    ) -> None:
        if points < 1 or not all(threshold > 0 for threshold in thresholds):
            raise ValueError(f"points and thresholds are positive, got {points} and {list(thresholds)}")
        names = ["accuracy", "completeness", "chamfer_sum", "chamfer_mean", "chamfer_squared"]
        names += [f"{name}@{threshold:g}" for threshold in thresholds for name in ("precision", "recall", "f_score")]
        names += ["normal_consistency", "normal_consistency_signed"] if normals else []
        super().__init__(names, **kwargs)
        self.points, self.thresholds, self.normals, self.frame = points, tuple(thresholds), normals, frame

    @property
    def protocol(self) -> dict[str, Any]:
        """Points, thresholds, frame and the kind of distance."""
        thresholds = list(self.thresholds)
        return {
            "points": self.points,
            "thresholds": thresholds,
            "frame": self.frame,
            "distance": "L2, to nearest point",
        }

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor) -> None:
        """Measure a batch.

        Args:
            output: (B, points, 3), or (B, points, 6) with unit normals, from the reconstructed surfaces. A shape with
                NaN in it, for one that has no surface, is counted in `skipped`.
            target: the same from the originals.

        Raises:
            ValueError: another number of points or columns.
        """
        wanted = (self.points, 6 if self.normals else 3)
        if output.shape != target.shape or output.shape[1:] != wanted:
            raise ValueError(
                f"SurfaceDistance expects two clouds (B, {wanted[0]}, {wanted[1]}), got {tuple(output.shape)} and "
                f"{tuple(target.shape)}; sample as many points, for the numbers depend on it"
            )
        if len(output):
            self.add(torch.stack([self.score(*pair) for pair in zip(output, target, strict=True)]))

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers (names,) float64 of one pair of clouds (points, C)."""
        if not (output.isfinite().all() and target.isfinite().all()):
            return self.total.new_full((len(self.names),), torch.nan)
        there, theirs = nearest(output[:, :3], target[:, :3])
        back, ours = nearest(target[:, :3], output[:, :3])
        chamfer = there.mean() + back.mean()
        numbers = [there.mean(), back.mean(), chamfer, chamfer / 2, there.square().mean() + back.square().mean()]
        for threshold in self.thresholds:
            precision, recall = ((distance < threshold).double().mean() for distance in (there, back))
            numbers += [precision, recall, 2 * precision * recall / (precision + recall).clamp_min(1e-12)]
        if self.normals:
            a, b = (F.normalize(cloud[:, 3:].double(), dim=1) for cloud in (output, target))
            there, back = (a * b[theirs]).sum(1), (b * a[ours]).sum(1)
            numbers += [(there.abs().mean() + back.abs().mean()) / 2, (there.mean() + back.mean()) / 2]
        return torch.stack(numbers)


class SurfaceFidelity(SurfaceDistance):
    """`SurfaceDistance` with the sampling floor of the same shapes beside it.

    Args:
        points, thresholds, normals, frame: as there.
        keep: the names that `compute` gives; None for all.
        **kwargs: of `torchmetrics.Metric`.

    Attributes:
        floor: after `compute`, what the originals get against another sampling of themselves, by the same names.

    Raises:
        ValueError: a name of `keep` that there is not.
    """

    floor_total: Tensor
    floor_count: Tensor

    def __init__(
        self,
        points: int = 100_000,
        thresholds: Sequence[float] = (0.01, 0.02, 0.05),
        *,
        normals: bool = False,
        frame: str = FRAME,
        keep: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(points, thresholds, normals=normals, frame=frame, **kwargs)
        self.keep = self.names if keep is None else tuple(keep)
        if unknown := set(self.keep) - set(self.names):
            raise ValueError(f"SurfaceFidelity has {', '.join(self.names)}; not {', '.join(sorted(unknown))}")
        self.floor: dict[str, float] = {}
        self.add_state("floor_total", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("floor_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, again: Tensor) -> None:  # type: ignore[override]
        """Measure a batch.

        Args:
            output, target: as `SurfaceDistance.update`.
            again: the originals sampled a second time.
        """
        super().update(output, target)
        for pair in zip(again, target, strict=True):
            self.floor_total += self.score(*pair)
            self.floor_count += 1

    def compute(self) -> dict[str, Tensor]:
        """Means over the shapes by the names that are kept; fills `floor`, of all ranks."""
        means, floor = super().compute(), (self.floor_total / self.floor_count).tolist()
        self.floor = {name: value for name, value in zip(self.names, floor, strict=True) if name in self.keep}
        return {name: means[name] for name in self.keep}


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each point, the nearest of others: by a k-d tree on the CPU, by all distances on other devices.

    Args:
        points: (n, 3), finite.
        others: (m, 3), finite, m >= 1.

    Returns:
        Distances (n,) float64 and indices (n,) int64 into others.

    Raises:
        ImportError: scipy is missing.
    """
    if points.device.type == "cpu":
        try:
            from scipy.spatial import cKDTree
        except ImportError as error:
            raise ImportError("distances of surfaces need scipy; pip install tokenizer-zoo[mesh]") from error
        distances, indices = cKDTree(others.double().numpy()).query(points.double().numpy())
        return torch.from_numpy(distances), torch.from_numpy(indices).long()
    found = []
    for part in points.double().split(max(1, PAIRS // len(others))):
        gaps = torch.cdist(part, others.double(), compute_mode="donot_use_mm_for_euclid_dist")
        found.append(gaps.min(1))
    return torch.cat([gap for gap, _ in found]), torch.cat([place for _, place in found])


def sampling_floor(metric: SurfaceDistance, draw: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """The numbers of surfaces against themselves: what a perfect reconstruction gets with so many points.

    Args:
        metric: whose points and thresholds are used; what it has seen stays as it is.
        draw: a sampling (B, points, C) of the originals for a seed; called with 0 and 1.
    """
    floor = metric.clone()
    floor.reset()
    floor.update(draw(1), draw(0))
    return floor.compute()
