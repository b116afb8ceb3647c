"""Measures of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.evaluation.measures.base import Context, Measure, Number

if TYPE_CHECKING:
    from torchmetrics import Metric

    from zoo.evaluation.outcome import Outcome

__all__ = ["MEASURES"]

THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1)  # those that a table has columns for
DISTANCES = {
    "chamfer_sum": Number("Chamfer distance, sum", "lower", digits=4),
    "chamfer_mean": Number("Chamfer distance, mean", "lower", digits=4),
    "chamfer_squared": Number("Chamfer distance, squared", "lower", digits=5),
    "accuracy": Number("accuracy", "lower", digits=4),
    "completeness": Number("completeness", "lower", digits=4),
}
SHARES = {
    f"{name}@{edge:g}": Number(f"{title}@{edge:g}", "higher")
    for edge in THRESHOLDS
    for name, title in (("f_score", "F-score"), ("precision", "precision"), ("recall", "recall"))
}
NORMALS = {
    "normal_consistency": Number("normal consistency", "higher"),
    "normal_consistency_signed": Number("normal consistency, signed", "higher"),
}


def _iou(context: Context) -> Metric:
    from zoo.metrics.shapes import VolumeIoU

    return VolumeIoU()


def _feed_iou(metric: Any, outcome: Outcome) -> None:
    # What has no inside, a cloud or a field of NaN, is skipped instead of being empty.
    known = (outcome.output + outcome.target).isfinite().all(1, keepdim=True)
    metric.update(outcome.output, outcome.target, known.expand_as(outcome.output))


def _surface(
    context: Context, *, thresholds: Sequence[float] = (0.01, 0.02, 0.05), numbers: Sequence[str] | None = None
) -> Metric:
    """Distances of surfaces, of points as the view draws them.

    Args:
        context: whose view says how many points, whether with normals, and in which frame.
        thresholds: of F-scores, among `THRESHOLDS`.
        numbers: which are kept; None for all there are.
    """
    from zoo.evaluation.views.shapes import FRAMES, ShapeOptions
    from zoo.metrics.shapes import SurfaceFidelity

    options = ShapeOptions.read(context.view)
    if unknown := set(thresholds) - set(THRESHOLDS):
        raise ValueError(f"surface: thresholds are among {list(THRESHOLDS)}, got {sorted(unknown)}")
    frame = FRAMES[options.frame]
    return SurfaceFidelity(options.surface, thresholds, normals=options.normals, frame=frame, keep=numbers)


def _feed_surface(metric: Any, outcome: Outcome) -> None:
    if outcome.surfaces is None:
        raise ValueError("surface: the view gave no surfaces")
    metric.update(*outcome.surfaces)


def _surface_details(metric: Any) -> dict[str, Any]:
    """How points were compared, and what the originals get against another sampling of themselves."""
    return {**metric.protocol, "sampling_floor": {name: round(value, 6) for name, value in metric.floor.items()}}


MEASURES: tuple[Measure, ...] = (
    Measure(
        "volume_iou",
        ("shape",),
        {"": Number("volume IoU", "higher")},
        _iou,
        _feed_iou,
        lambda metric: {**metric.protocol, "occupancy": "winding number above 1/2"},
        extra="mesh",
    ),
    Measure(
        "surface",
        ("shape",),
        DISTANCES | SHARES | NORMALS,
        _surface,
        _feed_surface,
        _surface_details,
        surfaces=True,
        extra="mesh",
    ),
)
