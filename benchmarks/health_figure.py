"""The figure of `benchmarks/codebook_health.py`: usage, perplexity and quality of every quantizer, as dots on lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from zoo.data.sheet import FAINT, INK, PAPER

__all__ = ["draw"]

GRID = "#dcdce2"
COLOURS = ("#0072b2", "#d55e00")  # blue and vermilion of Okabe and Ito, told apart by all
NAMES, PANEL, GAP, STEP, TOP, BOTTOM, RADIUS = 390, 380, 60, 46, 150, 64, 9
OFFSET = 7  # of the two sizes from the line, so that neither hides the other
FINE = 2  # drawn this much larger, then reduced: smooth edges


@dataclass(frozen=True)
class Panel:
    """One axis.

    Attributes:
        title: above it.
        value: of a result; None leaves the dot out.
        low: left end.
        high: right end.
        ticks: values with a line.
        label: of a tick.
        goal: value with a dashed line, if any.
    """

    title: str
    value: Callable[[dict[str, Any]], float | None]
    low: float
    high: float
    ticks: Sequence[float]
    label: Callable[[float], str]
    goal: float | None = None

    def place(self, value: float) -> float:
        """Share of the width."""
        return min(max((value - self.low) / (self.high - self.low), 0), 1)


def draw(results: Sequence[dict[str, Any]], names: Sequence[str], bits: Sequence[int]) -> Image.Image:
    """Compose the figure.

    Args:
        results: of `codebook_health.run`.
        names: rows from top to bottom; those without a result are left out.
        bits: sizes, one colour each.

    Returns:
        An RGB picture, twice as large as it is shown.
    """
    rows = [name for name in names if any(row["name"] == name for row in results)]
    panels = axes(results)
    foot = TOP + STEP * len(rows)
    sheet = Image.new("RGB", ((NAMES + (PANEL + GAP) * len(panels)) * FINE, (foot + BOTTOM) * FINE), PAPER)
    pen = Pen(sheet)
    for number, panel in enumerate(panels):
        left = NAMES + (PANEL + GAP) * number
        pen.text(left, TOP - 30, panel.title, anchor="ls")
        for tick in panel.ticks:
            x = left + PANEL * panel.place(tick)
            pen.line(x, TOP - 14, x, foot)
            pen.text(x, foot + 10, panel.label(tick), faint=True, anchor="ma")
        if panel.goal is not None:
            x = left + PANEL * panel.place(panel.goal)
            for y in range(TOP - 14, foot, 10):
                pen.line(x, y, x, min(y + 5, foot), FAINT)
    for number, name in enumerate(rows):
        y = TOP + STEP * number + STEP // 2
        pen.text(NAMES - 36, y, name, anchor="rm")
        for column, panel in enumerate(panels):
            left = NAMES + (PANEL + GAP) * column
            pen.line(left, y, left + PANEL, y)
            for size, colour in reversed(list(zip(bits, COLOURS, strict=True))):
                row = next((row for row in results if (row["name"], row["bits"]) == (name, size)), None)
                value = None if row is None else panel.value(row)
                if row is not None and value is not None:
                    x = left + PANEL * panel.place(value)
                    shift = 0 if not row["sizes"] else -OFFSET if size == bits[0] else OFFSET
                    pen.mark(x, y + shift, colour if row["sizes"] else INK, size == bits[0])
    legend(pen, bits)
    return sheet.resize((sheet.width // FINE, sheet.height // FINE), Image.Resampling.BOX)


class Pen:
    """Draws in units of the finished picture."""

    def __init__(self, sheet: Image.Image) -> None:
        self.pen = ImageDraw.Draw(sheet)
        self.fonts = {faint: ImageFont.load_default(size * FINE) for faint, size in ((False, 25), (True, 21))}

    def text(self, x: float, y: float, text: str, *, faint: bool = False, anchor: str = "lm") -> float:
        """Write; returns the width."""
        self.pen.text((x * FINE, y * FINE), text, FAINT if faint else INK, self.fonts[faint], anchor)
        return self.fonts[faint].getlength(text) / FINE

    def line(self, x: float, y: float, right: float, low: float, colour: str = GRID) -> None:
        """A thin line."""
        self.pen.line([(x * FINE, y * FINE), (right * FINE, low * FINE)], colour, 2 * FINE)

    def mark(self, x: float, y: float, colour: str, disc: bool) -> None:
        """A disc, or a diamond: sizes differ in shape as well as in colour."""
        corners = [(0, -1), (1, 0), (0, 1), (-1, 0)]
        for reach, fill in ((RADIUS + 2, PAPER), (RADIUS, colour)):
            if disc:
                box = [(x - reach) * FINE, (y - reach) * FINE, (x + reach) * FINE, (y + reach) * FINE]
                self.pen.ellipse(box, fill)
            else:
                self.pen.polygon(
                    [((x + (reach + 3) * i) * FINE, (y + (reach + 3) * j) * FINE) for i, j in corners], fill
                )


def axes(results: Sequence[dict[str, Any]]) -> list[Panel]:
    """Usage in percent, perplexity in bits, PSNR in a range that fits."""
    quality = [row["psnr"] for row in results]
    low, high = 5 * math.floor(min(quality) / 5), 5 * (math.floor(max(quality) / 5) + 1)
    return [
        Panel(
            "usage, share of codes (goal 90%)",
            lambda row: row.get("usage"),
            0,
            1,
            [0, 0.25, 0.5, 0.75, 1],
            lambda tick: f"{tick:.0%}",
            goal=0.9,
        ),
        Panel(
            "perplexity, codes",
            lambda row: math.log2(row["perplexity"]) if "perplexity" in row else None,
            0,
            16,
            [0, 4, 8, 12, 16],
            lambda tick: f"{2**tick:,.0f}",
        ),
        Panel("PSNR, dB", lambda row: row["psnr"], low, high, range(low, high + 1, 5), lambda tick: f"{tick:.0f}"),
    ]


def legend(pen: Pen, bits: Sequence[int]) -> None:
    """What the marks mean, at the top left."""
    x = 44.0
    for size, colour in zip(bits, COLOURS, strict=True):
        pen.mark(x, 36, colour, size == bits[0])
        x += 74 + pen.text(x + 22, 36, f"about {2**size:,} codes")
    pen.mark(x, 36, INK, True)
    pen.text(x + 22, 36, "continuous")
