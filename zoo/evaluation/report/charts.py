"""Quality against rate as SVG, which follows the reader's light or dark mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.data.chart import COLOURS, SHAPES, linear, logarithmic, shown
from zoo.evaluation.measures.codes import MEASURES as CODES

if TYPE_CHECKING:
    from zoo.evaluation.report.groups import Column, Group, Row

__all__ = ["Chart", "Curve", "Mark", "Tick", "charts"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 340, 58, 16, 34, 52
LETTER, LINE = 7.4, 21  # of the legend, pixels
MOST = 8  # charts of a group
UNITS = {"bit/pixel": "bits per pixel", "kbit/s": "kbit/s", "bit": "bits per shape"}
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
    "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
    "triangle": [(0, -6), (5.5, 4), (-5.5, 4)],
}


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid: its place in pixels, and its label."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point: its place in pixels, its corners (none for a disc), and what it says when pointed at."""

    x: float
    y: float
    corners: str
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A model: its name and its marks, joined in this order; where its name stands in the legend."""

    name: str
    colour: str
    marks: list[Mark]
    legend: Mark

    @property
    def path(self) -> str:
        """Of the line through the marks."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Chart:
    """One number against the rate.

    Attributes:
        title: of the number, with its unit and which side is better.
        across: label of the x axis.
    """

    title: str
    across: str
    curves: list[Curve]
    columns: list[Tick]
    rows: list[Tick]
    height: float

    width, left, right, top, bottom = WIDTH, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def charts(group: Group) -> list[Chart]:
    """A chart for each number of quality that was measured at two rates at least."""
    about_codes = {measure.name for measure in CODES}
    quality = (column for column in group.columns if column.better and column.measure not in about_codes)
    found = (_chart(group, column) for column in quality)
    return [chart for chart in found if chart is not None][:MOST]


def heading(column: Column) -> str:
    """A number's title with its unit and an arrow to its better side."""
    arrow = {"higher": "\u00a0↑", "lower": "\u00a0↓"}.get(column.better or "", "")
    unit = f", {column.unit}" if column.unit and column.unit not in column.title else ""
    return f"{column.title}{unit}{arrow}"


def _chart(group: Group, column: Column) -> Chart | None:
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row in group.rows:
        point = _point(group, row, column)
        if point is not None:
            lines.setdefault(row.model, []).append(point)
    points = [point for line in lines.values() for point in line]
    if len({x for x, _, _ in points}) < 2:
        return None
    x_axis = logarithmic([x for x, _, _ in points], LEFT, WIDTH - RIGHT, doubling=False)
    y_axis = linear([y for _, y, _ in points], HEIGHT - BOTTOM, TOP)
    curves = []
    for number, (name, (x, y)) in enumerate(zip(lines, _places(list(lines)), strict=True)):
        shape, colour = SHAPES[number % len(SHAPES)], COLOURS[number % len(COLOURS)]
        places = [(x_axis.place(rate), y_axis.place(value), title) for rate, value, title in sorted(lines[name])]
        marks = [_mark(shape, *place) for place in places]
        curves.append(Curve(name, colour, marks, _mark(shape, x, y, "")))
    unit = next(row.result.rate.unit for row in group.rows if row.result.rate is not None)
    columns = list(_labelled((x_axis.place(tick), f"{tick:,g}") for tick in x_axis.ticks))
    rows = [Tick(y_axis.place(tick), shown(tick, y_axis.ticks)) for tick in y_axis.ticks]
    height = curves[-1].legend.y + LINE
    return Chart(heading(column), UNITS.get(unit, unit), curves, columns, rows, height)


def _point(group: Group, row: Row, column: Column) -> tuple[float, float, str] | None:
    """Rate, value, and what is said of them; None where either is missing."""
    rate, cell = row.result.rate, group.cell(row, column)
    if rate is None or not rate.value or cell.value is None:
        return None
    told = f"{row.name}: {cell.text} {column.unit}".rstrip()
    return rate.value, cell.value, f"{told} at {rate.value:.4g} {rate.unit}"


def _labelled(ticks: Iterable[tuple[float, str]]) -> Iterator[Tick]:
    """Ticks from left to right; those too close to the one before have a line and no label."""
    free = -math.inf
    for place, label in ticks:
        half = LETTER * len(label) / 2
        fits = place - half > free
        free = place + half + 4 if fits else free
        yield Tick(place, label if fits else "")


def _places(names: Sequence[str]) -> Iterator[tuple[float, float]]:
    """Where marks of the legend are, below the axis; it wraps."""
    x, y = float(LEFT), float(HEIGHT + 6)
    for name in names:
        wide = 24 + LETTER * len(name) + 16
        if x > LEFT and x + wide > WIDTH:
            x, y = float(LEFT), y + LINE
        yield x, y
        x += wide


def _mark(shape: str, x: float, y: float, title: str) -> Mark:
    corners = " ".join(f"{x + across:.1f},{y + down:.1f}" for across, down in OUTLINES.get(shape, ()))
    return Mark(round(x, 1), round(y, 1), corners, title)
