"""Lines over a logarithmic axis: what `zoo curve` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from zoo.data.sheet import FAINT, INK, PAPER

__all__ = ["Line", "chart"]

GRID = "#e3e3e8"
# Okabe and Ito, told apart by all; references are grey, and marks differ in shape as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREYS = ("#55555f", "#9a9aa5")
SHAPES = ("disc", "diamond", "square", "triangle")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1400, 860, 124, 40, 40, 112
ROW, RADIUS = 40, 9
FINE = 2  # drawn this much larger, then reduced: smooth edges


@dataclass(frozen=True, slots=True)
class Line:
    """A curve, or a point.

    Attributes:
        name: in the legend.
        points: (x, y) with x > 0, in the order in which they are joined.
        reference: grey and dashed, something to compare with.
        labels: a word above each point, or none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    reference: bool = False
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to pixels.

    Attributes:
        start: pixel of `low`.
        stop: pixel of `high`.
        ticks: values with a line and a label.
        logarithmic: equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Pixel of a value."""
        scale: Callable[[float], float] = math.log if self.logarithmic else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.stop - self.start)


def chart(lines: Sequence[Line], across: str, up: str, note: str = "", *, doubling: bool = False) -> Image.Image:
    """Draw lines with a legend above and a note below.

    Args:
        lines: at least one point in all.
        across: label of the logarithmic x axis.
        up: label of the linear y axis.
        note: what was measured on what, in small print.
        doubling: ticks of the x axis at 1, 2, 4, 8, ... instead of round decimals.

    Returns:
        An RGB picture, twice as large as it is shown on a page.

    Raises:
        ValueError: no points, or an x that has no logarithm.
    """
    points = [point for line in lines for point in line.points]
    if not points or min(x for x, _ in points) <= 0:
        raise ValueError("a chart needs points, and each x above 0")
    pen = Pen(WIDTH, HEIGHT)
    styles = list(zip(lines, looks(lines), strict=True))
    top = TOP + legend(pen, styles) + 92
    x_axis = logarithmic([x for x, _ in points], LEFT, WIDTH - RIGHT, doubling)
    y_axis = linear([y for _, y in points], HEIGHT - BOTTOM, top)
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID, 2)
        pen.text(LEFT - 16, y, shown(tick, y_axis.ticks), faint=True, anchor="rm")
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        pen.line([(x, top), (x, HEIGHT - BOTTOM)], GRID, 2)
        pen.text(x, HEIGHT - BOTTOM + 12, f"{tick:,g}", faint=True, anchor="ma")
    pen.text(LEFT, top - 18, up, anchor="ls")
    pen.text(WIDTH - RIGHT, HEIGHT - BOTTOM + 50, across, anchor="ra")
    pen.text(LEFT, HEIGHT - BOTTOM + 54, note, faint=True, anchor="la")
    for line, (colour, shape) in reversed(styles):
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.points]
        for start, stop in pairwise(places):
            pen.dashes(start, stop, colour) if line.reference else pen.line([start, stop], colour, 4)
        for x, y in places:
            pen.mark(x, y, colour, shape, RADIUS - 2 if line.reference else RADIUS)
        for (x, y), label in zip(places, line.labels, strict=False):
            pen.text(x, y - 20, label, faint=True, anchor="ms")
    return pen.finish()


def looks(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Colour and shape of each line."""
    found, counts = [], {True: 0, False: 0}
    for line in lines:
        number, palette = counts[line.reference], GREYS if line.reference else COLOURS
        counts[line.reference] += 1
        found.append((palette[number % len(palette)], SHAPES[number % len(SHAPES)]))
    return found


def legend(pen: Pen, styles: Sequence[tuple[Line, tuple[str, str]]]) -> int:
    """Names beside their marks, wrapped; returns the height."""
    x, y = float(LEFT), TOP
    for line, (colour, shape) in styles:
        wide = 66 + pen.length(line.name) + 40
        if x > LEFT and x + wide - 40 > WIDTH - RIGHT:
            x, y = float(LEFT), y + ROW
        if len(line.points) > 1:
            ends = (x, y), (x + 50, y)
            pen.dashes(*ends, colour) if line.reference else pen.line(ends, colour, 4)
        pen.mark(x + 25, y, colour, shape, RADIUS - 2 if line.reference else RADIUS)
        pen.text(x + 66, y, line.name)
        x += wide
    return y - TOP


class Pen:
    """Draws in units of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self.sheet = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self.pen = ImageDraw.Draw(self.sheet)
        self.fonts = {faint: ImageFont.load_default(size * FINE) for faint, size in ((False, 26), (True, 23))}

    def length(self, text: str) -> float:
        """Width of a text."""
        return self.fonts[False].getlength(text) / FINE

    def text(self, x: float, y: float, text: str, *, faint: bool = False, anchor: str = "lm") -> None:
        """Write."""
        self.pen.text((x * FINE, y * FINE), text, FAINT if faint else INK, self.fonts[faint], anchor)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        """Join points."""
        self.pen.line([(x * FINE, y * FINE) for x, y in points], colour, width * FINE)

    def dashes(self, start: tuple[float, float], stop: tuple[float, float], colour: str) -> None:
        """A dashed line."""
        length = math.dist(start, stop)
        for at in range(0, math.ceil(length), 18):
            ends = [min(share, length) / length for share in (at, at + 10)]
            self.line([tuple(a + (b - a) * end for a, b in zip(start, stop, strict=True)) for end in ends], colour, 3)  # type: ignore[misc]

    def mark(self, x: float, y: float, colour: str, shape: str, radius: float) -> None:
        """A mark with a rim of paper."""
        for reach, fill in ((radius + 3, PAPER), (radius, colour)):
            if shape == "disc":
                self.pen.ellipse([(side * FINE) for side in (x - reach, y - reach, x + reach, y + reach)], fill)
                continue
            corners = {
                "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
                "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
                "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
            }[shape]
            self.pen.polygon([((x + reach * i) * FINE, (y + reach * j) * FINE) for i, j in corners], fill)

    def finish(self) -> Image.Image:
        """The picture."""
        return self.sheet.resize((self.sheet.width // FINE, self.sheet.height // FINE), Image.Resampling.BOX)


DIGITS = (range(1, 10), (1, 2, 5), (1, 3), (1,))


def logarithmic(values: Sequence[float], start: float, stop: float, doubling: bool) -> Axis:
    """An axis with at most twelve ticks, if it can be, at 1, 2, 3, ..., at 1, 2, 5, 10, ... or at powers of 2."""
    low, high = min(values), max(values)
    margin = (high / low) ** 0.04 if high > low else 2.0
    low, high = low / margin, high * margin
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    grids: list[list[float]] = [[digit * 10.0**power for power in exponents for digit in digits] for digits in DIGITS]
    if doubling:
        grids = [[2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]]
    ticks: list[float] = []
    for grid in grids:
        ticks = [tick for tick in grid if low <= tick <= high]
        if len(ticks) <= 12:
            break
    ticks = ticks or list(linear((low, high), start, stop).ticks)
    return Axis(low, high, start, stop, ticks, logarithmic=True)


def linear(values: Sequence[float], start: float, stop: float) -> Axis:
    """An axis with about six ticks at round values."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    low, high = low - 0.06 * spread, high + 0.06 * spread
    unit = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(unit * digit for digit in (1, 2, 5, 10) if (high - low) / (unit * digit) <= 8)
    ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, start, stop, ticks)


def shown(tick: float, ticks: Sequence[float]) -> str:
    """A tick's label, with as many decimals as their distance needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(tick) or 1.0
    return f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
